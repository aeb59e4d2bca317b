//! Named places at which a crash is interesting. A test arms a hook that sees each one passed, and may end the process
//! there; without one, passing costs a load and a branch.

use std::sync::OnceLock;

/// What is called with the name of each place passed.
pub type Hook = Box<dyn Fn(&'static str) + Send + Sync>;

static HOOK: OnceLock<Hook> = OnceLock::new();

/// Arms the hook, for the rest of the process's life. Only the first call counts.
pub fn arm(hook: Hook) {
    let _ = HOOK.set(hook);
}

/// Says that this place is passed. The name is a sentence about the moment: "the record is not written yet".
#[inline]
pub fn passed(name: &'static str) {
    if let Some(hook) = HOOK.get() {
        hook(name);
    }
}
