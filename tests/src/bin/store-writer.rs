//! Writes a history to the store that a URL names, and says on standard output what was acknowledged: `store-writer URL COUNT`.
#![allow(clippy::print_stdout, reason = "what it says is what it is for")]

use std::{env, error::Error};

use coracle::{StorageUrl, open_store};
use coracle_tests::history;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, count] = &arguments[..] else { return Err("expected a storage URL and a count".into()) };
    let store = open_store(&url.parse::<StorageUrl>()?)?;
    // A line is one call of the system, at once.
    history::write(&*store, count.parse()?, |what, index| println!("{what} {index}"))?;
    Ok(())
}
