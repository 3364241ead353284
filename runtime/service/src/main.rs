//! The `tidemill` binary: the command line of the library, with the flywheel's flow.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidemill::cli::main(tidemill::flywheel::app::app())
}
