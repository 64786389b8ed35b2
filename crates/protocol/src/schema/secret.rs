//! Text that does not get into logs.

use serde::{Deserialize, Serialize};

/// Text that must not be shown: its `Debug` is the same whatever it is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret<'a>(#[serde(borrow)] pub &'a str);

impl std::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<hidden>")
    }
}
