//! `setup`: a step of a session's set-up, done once for what it depends on.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::exec::{Ended, Here};
use super::fork::in_child;
use super::stay::Stay;
use crate::base::SessionId;
use crate::cli::args::{InWorkspace, SetupArgs};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::session::{CommandRecord, SetUpReason, StepDone, What, key_of};

/// How long looking at the key files, or leaving a mark, may take.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// What `setup --json` says at its end.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Said<'a> {
    #[serde(rename_all = "camelCase")]
    SetUp {
        step: &'a str,
        key: &'a str,
        skipped: bool,
        /// How long it took: now, or when it was done.
        millis: u64,
    },
}

pub fn setup(context: &Context, args: SetupArgs) -> Result<u8, Failure> {
    let id = context.session(&args.session)?;
    let mut here = Here::prepare()?;
    let stay = Stay::begin(context, &id, "setup", args.at.mount.as_deref())?;
    context.log_to_stderr();
    let done = step(context, &id, &mut here, &stay, &args);
    let (done, changed) = (done, stay.end());
    let Some(ended) = done? else { return changed.map(|_| 0) };
    let record = CommandRecord { changed: changed.as_ref().ok().copied(), ..ended.record("setup", &args.at) };
    context.store.record_command(&id, &record);
    changed.map(|_| ended.code())
}

/// Does the step unless it is done; `None` when it was.
fn step(
    context: &Context,
    id: &SessionId,
    here: &mut Here,
    stay: &Stay,
    args: &SetupArgs,
) -> Result<Option<Ended>, Failure> {
    let _turn = turn(here, &context.store.session(id).setup_lock())?;
    let name = args.name.clone().unwrap_or_else(|| CommandRecord::shown(&args.at.command));
    let (key, before) = look(stay, &args.at, &name, args)?;
    let said = |skipped, millis| Said::SetUp { step: &name, key: &key, skipped, millis };
    if let Some(done) = before.as_ref().filter(|done| done.key == key) {
        let saved_millis = done.millis;
        context.store.record(id, What::SetUpSkipped { step: name.clone(), key: key.clone(), saved_millis });
        let seconds = saved_millis as f64 / 1000.0;
        context.report(&said(true, saved_millis), || format!("{name}: done before, {seconds:.1} s saved"))?;
        return Ok(None);
    }
    let why = if before.is_some() { SetUpReason::KeyChanged } else { SetUpReason::First };
    let ended = here.run(id, stay, &args.at, context.json)?;
    let millis = ended.millis();
    if ended.succeeded() {
        // It may have made or changed what it depends on, as a package manager does with its lock file.
        let (key, _) = look(stay, &args.at, &name, args)?;
        leave_mark(stay, StepDone { step: name.clone(), key, millis })?;
    }
    let (step, exit) = (name.clone(), ended.status_code());
    context.store.record(id, What::SetUp { step, key: key.clone(), why, millis, exit });
    if context.json {
        context.answer(&said(false, millis), |_| Ok(()))?;
    }
    Ok(Some(ended))
}

/// What the step depends on now, and the mark that it has left.
fn look(stay: &Stay, at: &InWorkspace, name: &str, args: &SetupArgs) -> Result<(String, Option<StepDone>), Failure> {
    let root = &stay.door.mountpoint;
    in_child(PATIENCE, || {
        stay.door.enter(None)?;
        let key = key_of(root, &at.command, &args.key).map_err(|error| {
            let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NoSuchPath } else { Exit::Failure };
            Failure::new(exit, format!("--key: {error}"))
        })?;
        Ok((key, StepDone::read(root, name).map_err(Failure::io(root.display()))?))
    })
}

fn leave_mark(stay: &Stay, mark: StepDone) -> Result<(), Failure> {
    let root = &stay.door.mountpoint;
    in_child(PATIENCE, || {
        stay.door.enter(None)?;
        mark.write(root).map_err(Failure::io("the step is done, but no mark of it could be left in the session"))
    })
}

/// One set-up of a session at a time: who comes second finds what the first has done.
fn turn(here: &mut Here, path: &Path) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(Failure::io(path.display()))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(Failure::io(path.display())(error)),
            Err(TryLockError::WouldBlock) => {
                if let Some(signal) = here.asked_to_stop(PAUSE)? {
                    let text = format!("signal {signal}: another set-up of this session is still at work");
                    return Err(Failure::new(Exit::RunFailed, text));
                }
            }
        }
    }
}
