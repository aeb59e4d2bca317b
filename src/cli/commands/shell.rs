//! `completions` and `man`: generated from the grammar, so that they are never out of date.

use std::io::{self, Write};

use clap::CommandFactory;

use crate::cli::args::Cli;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::stdout_failure;

pub fn completions(shell: clap_complete::Shell) -> Result<u8, Failure> {
    // To memory first: the generator panics when its output fails.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sessionfs", &mut text);
    io::stdout().write_all(&text).map_err(stdout_failure)?;
    Ok(0)
}

/// The generator knows nothing of `--`, without which the command's own options would be taken for ours.
fn with_dashes(page: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(page).replacen(r"<\fICMD\fR>", r"\fB\-\-\fR <\fICMD\fR>...", 1).into_bytes()
}

pub fn man(command: Option<&str>) -> Result<u8, Failure> {
    let mut root = Cli::command();
    root.build();
    let page = match command {
        None => root,
        Some(name) => match root.find_subcommand(name) {
            Some(found) => found.clone(),
            None => {
                return Err(Failure::new(Exit::Usage, format!("{name}: no such command")).hint("sessionfs --help"));
            }
        },
    };
    let title = command.map_or_else(|| "sessionfs".to_owned(), |name| format!("sessionfs-{name}"));
    let mut text = Vec::new();
    clap_mangen::Man::new(page).title(title).render(&mut text).map_err(stdout_failure)?;
    let text = with_dashes(&text);
    io::stdout().write_all(&text).map_err(stdout_failure)?;
    Ok(0)
}
