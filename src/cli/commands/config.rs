//! `config`: what the settings are, and who says so.

use std::io::Write;

use serde::Serialize;
use serde_json::Value;

use crate::cli::config::EXAMPLE;
use crate::cli::failure::Failure;
use crate::cli::output::{Context, stdout_failure, table};

/// One option; what `config --json` lists.
#[derive(Serialize)]
struct Row {
    option: String,
    /// As a file has it; null when it is not set.
    value: Value,
    /// `default`, `--store`, a variable, or a file.
    from: String,
}

pub fn config(context: &Context) -> Result<u8, Failure> {
    let settings = context.settings();
    let options = settings.config.options().into_iter();
    let rows: Vec<Row> =
        options.map(|(option, value)| Row { from: settings.source(&option).to_string(), option, value }).collect();
    context.answer(&rows, |out| {
        let shown = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let header = ["OPTION", "VALUE", "FROM"].map(str::to_owned).to_vec();
        let lines = rows.iter().map(|row| vec![row.option.clone(), shown(&row.value), row.from.clone()]);
        table(out, &[vec![header], lines.collect()].concat(), &[false, false, false])
    })?;
    Ok(0)
}

/// `--example`: needs no settings, so it helps where they are wrong.
pub fn example() -> Result<u8, Failure> {
    std::io::stdout().write_all(EXAMPLE.as_bytes()).map_err(stdout_failure)?;
    Ok(0)
}
