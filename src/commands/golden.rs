//! Expected results of commands on the machines of `tests/fixtures`.

use std::path::Path;

use serde::Serialize;

use crate::protocol::reply;

/// Compares a result with `tests/fixtures/MACHINE.COMMAND.json`. With `GOLDEN=write` in the
/// environment the file is written instead, to be looked through before it is committed.
pub fn check(machine: &str, command: &str, result: &impl Serialize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{machine}.{command}.json"));
    let mut wire = Vec::new();
    reply::value(&mut wire, result);
    let value: serde_json::Value = serde_json::from_slice(&wire).expect("what we send is JSON");
    let text = format!("{value:#}\n");
    if std::env::var_os("GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&path, &text).expect("written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(text == expected, "{machine}: {command}\n--- expected\n{expected}--- found\n{text}");
}
