//! The `sessionfs` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sessionfs::base::memory::keep_little();
    sessionfs::cli::main()
}
