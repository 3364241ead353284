//! Prints rows of a table as JSON lines.
//!
//! ```text
//! cargo run -p tidemill-examples --example read_table                      a small store, made for this
//! cargo run -p tidemill-examples --example read_table -- demo/store train.sft
//! ```

use std::process::ExitCode;
use tidemill::Error;
use tidemill_examples::read_table::read_table;

const LIMIT: usize = 20;

fn run() -> Result<Vec<String>, Error> {
    let mut arguments = std::env::args().skip(1);
    if let (Some(store), Some(table)) = (arguments.next(), arguments.next()) {
        return read_table(&store, &table, LIMIT);
    }
    let folder = tempfile::tempdir().map_err(Error::failed)?;
    tidemill_examples::small_store(folder.path())?;
    read_table(&folder.path().join("store").display().to_string(), "train.preferences", LIMIT)
}

fn main() -> ExitCode {
    match run() {
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
