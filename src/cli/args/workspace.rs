//! Of commands that run a command in a workspace.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueHint};

use super::values::Variable;

/// What to run in a workspace, and how.
#[derive(Debug, Args)]
pub struct InWorkspace {
    /// Ends the command and all that it has started after so many seconds, 1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// The directory it begins in, from the root of the workspace
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cwd: Option<PathBuf>,
    /// A variable of its environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(Variable::parse))]
    pub env: Vec<Variable>,
    /// As whom it runs: a name or a number, perhaps with a group [default: who mounted the session]
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Where a session is mounted that is not [default: /mnt/workspace, where only the command sees it]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub mount: Option<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sessionfs exec ticket-8421 -- npm test
  sessionfs exec --timeout 900 --cwd web --env CI=1 ticket-8421 -- sh -c 'npm ci && npm test'
  sessionfs exec --json ticket-8421 -- cargo test

The command runs where the session is mounted, also in the private workspace of a `run`; a session
that is not mounted is mounted for as long as it takes. Standard input is passed on, and so is what
the command writes, each stream in its order. What it leaves running stays with the mount; who
reads our streams does not wait for that.

--json writes a line of JSON for each event:
  {\"contentStart\":{}}
  {\"contentDelta\":{\"stdout\":\"...\"}}     or stderr; stdoutBase64, stderrBase64 for what is no UTF-8
  {\"contentStop\":{\"exitCode\":3,\"status\":\"COMPLETED\"}}     -1 and TIMED_OUT when its time was up

Exit status: the command's own; 128+N when signal N ended it; 124 when its time was up; 127 not
found; 126 not executable; 125 when we failed before it started; 121 and 122 as with run.")]
pub struct ExecArgs {
    /// The session
    pub session: String,
    #[command(flatten)]
    pub at: InWorkspace,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sessionfs setup ticket-8421 --key package-lock.json -- npm ci
  sessionfs setup ticket-8421 --name toolchain --key rust-toolchain.toml -- ./scripts/toolchain
  sessionfs setup ticket-8421 --timeout 1800 --key requirements.txt constraints.txt -- ./scripts/venv

The step is done when the command ends with 0. The session remembers it, with the content of the key
files as they are then; while they stay as they are, the step is passed over, on every later mount,
too. Another content, or another command, and it is done again. What a step puts in an ephemeral
directory is gone with the mount: that is no set-up.

--json writes the events of exec, then
  {\"setUp\":{\"step\":\"npm ci\",\"key\":\"...\",\"skipped\":true,\"millis\":41000}}")]
pub struct SetupArgs {
    /// The session
    pub session: String,
    /// Files the step depends on, from the root of the workspace
    #[arg(long, required = true, num_args = 1.., value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: Vec<OsString>,
    /// What the step is called [default: its command]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub at: InWorkspace,
}
