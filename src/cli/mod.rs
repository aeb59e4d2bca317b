//! The command line: parses, calls, prints. The only place that makes text and exit codes, and the only one that
//! knows both the kernel adapter and the control socket.

mod access;
mod args;
mod commands;
mod config;
mod doctor;
mod exit;
mod exposition;
mod failure;
mod fixes;
mod output;
mod process;
mod receipt;

use std::process::ExitCode;

use clap::Parser;

pub use exit::Exit;

use args::{Cli, Command};
use failure::Failure;
use output::Context;

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json = cli.global.json;
    let is_run = matches!(cli.command, Command::Run(_) | Command::Exec(_) | Command::Setup(_));
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // The statuses below 125 are CMD's: see `exit.rs`.
            let exit = if is_run { failure.exit.for_run() } else { failure.exit.code() };
            failure.print_as(json, exit);
            ExitCode::from(exit)
        }
    }
}

/// Help and version go to standard output and succeed; a usage error has its own code, and 125 under `run`, whose
/// other statuses are the command's.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A reader that left early (`--help | head`) is no failure.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let before_command = || std::env::args().skip(1).take_while(|arg| arg != "--");
    let is_run = before_command().any(|arg| ["run", "exec", "setup"].contains(&arg.as_str()));
    let exit = if is_run { Exit::Usage.for_run() } else { Exit::Usage.code() };
    if before_command().any(|arg| arg == "--json") {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Failure::new(Exit::Usage, line).hint("sessionfs --help").print_as(true, exit);
    } else {
        let _ = error.print();
    }
    ExitCode::from(exit)
}

fn dispatch(cli: Cli) -> Result<u8, Failure> {
    // These need no settings and no store.
    match &cli.command {
        Command::Completions { shell } => return commands::shell::completions(*shell),
        Command::Man { command } => return commands::shell::man(command.as_deref()),
        Command::Config { example: true } => return commands::config::example(),
        _ => {}
    }
    let context = Context::new(&cli.global)?;
    // Servers log elsewhere, and a logger is set once.
    if !matches!(cli.command, Command::Mount(_) | Command::Run(_) | Command::Exec(_) | Command::Setup(_)) {
        context.log_to_stderr();
    }
    match cli.command {
        Command::Run(args) => process::run(&context, args),
        Command::Exec(args) => process::exec(&context, args),
        Command::Setup(args) => process::setup(&context, args),
        Command::Log { last, output, session } => commands::log::log(&context, &session, last, output),
        Command::Mount(args) => process::mount(&context, args),
        Command::Umount { target, lazy } => commands::umount::umount(&context, &target, lazy),
        Command::Ls { target: None } => commands::ls::sessions(&context),
        Command::Ls { target: Some(target) } => commands::ls::tree(&context, &target),
        Command::Du { depth, top, target } => commands::du::du(&context, &target, depth, top),
        Command::Stats { session } => commands::stats::stats(&context, session.as_deref()),
        Command::Status { session } => commands::status::status(&context, &session),
        Command::Metrics { session, textfile } => {
            commands::metrics::metrics(&context, session.as_deref(), textfile.as_deref())
        }
        Command::Top { session, interval, count } => commands::top::top(&context, session.as_deref(), interval, count),
        Command::Trace { session, filter, count } => commands::trace::trace(&context, &session, &filter.into(), count),
        Command::Resize { size, inodes, session } => commands::resize::resize(&context, &session, size, inodes),
        Command::Rm { all_idle: true, dry_run, clock_is_right, .. } => {
            commands::gc::all_idle(&context, dry_run, clock_is_right)
        }
        Command::Rm { sessions, .. } => commands::rm::rm(&context, &sessions),
        Command::Gc(args) => commands::gc::gc(&context, &args),
        Command::Pin { sessions } => commands::retain::pin(&context, &sessions, true),
        Command::Unpin { sessions } => commands::retain::pin(&context, &sessions, false),
        Command::Retain { session, days } => commands::retain::retain(&context, &session, days),
        Command::Check { session } => commands::check::check(&context, &session),
        Command::Sync { session } => commands::sync::sync(&context, &session),
        Command::DiscardJournal { session } => commands::discard::discard_journal(&context, &session),
        Command::Accept { session } => commands::accept::accept(&context, &session),
        Command::Events { last, session } => commands::events::events(&context, &session, last),
        Command::Cat { file } => commands::cat::cat(&context, &file),
        Command::Cp { from, to, size, inodes } => commands::cp::cp(&context, &from, &to, size, inodes),
        Command::Export { target } => commands::export::export(&context, &target),
        Command::Doctor => doctor::doctor(&context),
        Command::Config { .. } => commands::config::config(&context),
        Command::Completions { .. } | Command::Man { .. } => Ok(0),
    }
}
