//! `mount`: a server in the background, or this process itself.

use super::fork::{Child, fork_server, obituary, wait};
use super::messages::{Message, Ready};
use super::mountpoint::{Missing, prepare};
use super::opening::{ephemeral, id_maps, open_options, resuming};
use super::preflight;
use super::server::{Plan, serve};
use super::signals::reset;
use crate::cli::args::MountArgs;
use crate::cli::commands::sync::described;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::cli::receipt::resumed;

pub fn mount(context: &Context, args: MountArgs) -> Result<u8, Failure> {
    let id = context.session(&args.session)?;
    let config = context.config();
    let ids = id_maps(context, &args.opening)?;
    let ephemeral = ephemeral(&args.opening)?;
    reset(&[libc::SIGCHLD]);
    preflight::check(context, &id, args.opening.existing)?;
    let mountpoint = match &args.mountpoint {
        Some(path) => prepare(path, Missing::Refuse)?,
        None => prepare(&config.mount, Missing::Make)?,
    };
    let plan = Plan {
        id,
        command: "mount",
        options: open_options(context, &args.opening, &ids),
        resuming: resuming(context, &args.opening),
        ephemeral,
        ids,
        existing: args.opening.existing,
        mountpoint,
        allow_other: args.opening.allow_other.unwrap_or(config.allow_other),
        transport: args.opening.transport.unwrap_or(config.transport),
        ends_with_parent: false,
        for_visits: false,
        foreground: args.foreground,
    };
    if args.foreground {
        let report = serve(context, &plan, None, None)?;
        context.report(&report, || described(&report))?;
        return Ok(0);
    }
    let mut child = fork_server(context, &plan).map_err(Failure::io("the server cannot be started"))?;
    let ready = wait_until_ready(context, &plan, &mut child)?;
    caution(context, &ready);
    context.report(&ready, || announcement(&ready))?;
    Ok(0)
}

/// Waits for the server to serve, or to say why it does not.
pub fn wait_until_ready(context: &Context, plan: &Plan, child: &mut Child) -> Result<Ready, Failure> {
    match Message::receive(&mut child.messages) {
        Ok(Some(Message::Ready(ready))) => Ok(*ready),
        Ok(Some(Message::Failed(failure))) => {
            // Its lock is free once it has ended: the next command must not find it in use.
            let _ = wait(child.pid);
            Err(failure)
        }
        other => {
            log::debug!("the server said {other:?}");
            let log = context.store.session(&plan.id).log_file();
            let status = wait(child.pid).ok();
            Err(Failure::new(Exit::ServerDied, format!("the server ended before it served ({})", obituary(status)))
                .hint(format!("tail {}", log.display())))
        }
    }
}

/// What a mount says for itself.
pub fn announcement(ready: &Ready) -> String {
    format!("{}; mounted at {}", resumed(&ready.session, &ready.resume), ready.mountpoint.display())
}

/// What its user should know in any case, on standard error.
pub fn caution(context: &Context, ready: &Ready) {
    if let Some(change) = ready.version_change.as_ref().filter(|change| change.from.is_some()) {
        context.warn(&format!("{}: {change}", ready.session));
    }
    ready.warning.iter().for_each(|warning| context.warn(warning));
}
