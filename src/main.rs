//! The `splashdam` program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    splashdam::cli::main()
}
