//! The `tidemill` binary: the command line of the library, with the flywheel's flow.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tidemill::cli::main(tidemill::flywheel::app::app())
}
