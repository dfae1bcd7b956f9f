//! `coracle get`: prints the value of a key.

use bytes::Bytes;
use coracle::level::{Kv, Revision, Value};
use serde_json::{Value as Json, json};

use crate::{
    cli::{ClusterArgs, GetArgs},
    connect,
    exit::{Code, Failure, Outcome},
    out, text,
};

pub(crate) async fn run(cluster: &ClusterArgs, args: GetArgs) -> Outcome {
    let client = connect::client(cluster)?;
    let read = client.get_many(args.reads.at(), vec![Bytes::from(args.key.clone())]).await?;
    let found = read.value.into_iter().next().flatten();
    if args.json {
        out::line(as_json(&args.key, found.as_ref(), read.revision))?;
    } else if let Some(found) = &found {
        out::line(text::verbatim(&found.value))?;
    }
    match found {
        Some(_) => Ok(()),
        None if args.json => Err(Failure::silent(Code::NotFound)),
        None => {
            Err(Failure::new(Code::NotFound, format!("there is no key \"{}\"", text::readable(args.key.as_bytes()))))
        }
    }
}

fn as_json(key: &str, found: Option<&Value>, revision: Revision) -> Json {
    match found {
        None => json!({ "key": key, "value": null, "revision": revision.0 }),
        Some(found) => json!({
            "key": key,
            "value": text::verbatim(&found.value),
            "created": found.created.0,
            "modified": found.modified.0,
            "version": found.version,
            "revision": revision.0,
        }),
    }
}
