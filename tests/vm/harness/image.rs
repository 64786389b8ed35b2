//! The cached guest images, built by `image.sh` when they are not there.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// `image.sh` ends with this when the machine cannot do it, for a reason it gives.
const CANNOT: i32 = 77;

/// The directory of the images, or why there can be none. Asks once per process.
pub fn images() -> Result<&'static Path, &'static str> {
    static IMAGES: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match IMAGES.get_or_init(build) {
        Ok(path) => Ok(path),
        Err(reason) => Err(reason),
    }
}

fn build() -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/image.sh");
    let mut child = Command::new(&script)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    // Building takes minutes: pass on what it says, and keep the last line as the reason.
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().expect("a pipe")).lines() {
        said = line.expect("image.sh speaks UTF-8");
        writeln!(io::stderr(), "{said}").expect("standard error");
    }
    let output = child.wait_with_output().expect("wait for image.sh");
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        Some(CANNOT) => Err(said),
        _ => panic!("image.sh failed: {said}"),
    }
}
