//! Pages that name the test behind a promise: each of these tests exists.

use std::fs;
use std::path::Path;

const PAGES: [&str; 2] = ["SECURITY.md", "docs/limits.md"];

/// Every line of the sources that may define a test.
fn sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            sources(&entry, text);
        } else if entry.extension().is_some_and(|kind| kind == "rs" || kind == "sh") {
            text.push_str(&fs::read_to_string(&entry).expect("text"));
        }
    }
}

/// What stands between backquotes and looks like the name of a test: words joined by underscores.
fn names(page: &str) -> impl Iterator<Item = &str> {
    let quoted = page.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.contains('_') && name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()))
}

#[test]
fn tests_that_pages_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for dir in ["src", "tests", "packaging"] {
        sources(&root.join(dir), &mut text);
    }
    for page in PAGES {
        let content = fs::read_to_string(root.join(page)).expect("a page");
        assert!(names(&content).count() > 5, "{page} names its tests");
        let missing: Vec<_> = names(&content)
            .filter(|name| !text.contains(&format!("fn {name}(")) && !text.contains(&format!("{name}() {{")))
            .collect();
        assert_eq!(missing, [""; 0], "{page} names tests that do not exist");
    }
}
