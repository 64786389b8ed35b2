//! Shell patterns (glob(7)): `*`, `?`, `[a-z]`, `[!a-z]`, and a backslash before what is meant itself.

use std::ffi::CString;

use nix::libc;

/// Patterns of which one is enough.
#[derive(Debug, Default)]
pub(crate) struct Patterns(Vec<CString>);

impl Patterns {
    /// A pattern with a NUL in it matches nothing.
    pub(crate) fn new(patterns: &[String]) -> Patterns {
        Patterns(patterns.iter().filter_map(|pattern| CString::new(pattern.as_str()).ok()).collect())
    }

    /// Whether one of the patterns describes the whole name.
    pub(crate) fn match_name(&self, name: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        CString::new(name).is_ok_and(|name| {
            self.0.iter().any(|pattern| {
                // SAFETY: both are strings that end with a NUL and live for the length of the call,
                // which only reads them.
                #[expect(unsafe_code, reason = "no safe wrapper")]
                let outcome = unsafe { libc::fnmatch(pattern.as_ptr(), name.as_ptr(), 0) };
                outcome == 0
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Patterns::new(&["never".to_owned(), pattern.to_owned()]).match_name(name)
    }

    #[test]
    fn patterns_are_those_of_the_shell() {
        for (pattern, names, others) in [
            ("veth*", &["veth", "veth0", "veth1a2b3c"][..], &["eth0", "xveth0", "vet"][..]),
            ("eth?", &["eth0"], &["eth", "eth10"]),
            ("cni[0-9]", &["cni0"], &["cni", "cnix", "cni10"]),
            ("[!e]*", &["lo"], &["eth0"]),
            ("docker0", &["docker0"], &["docker", "docker00", "Docker0"]),
            ("*", &["lo", ".hidden", "d0:1"], &[]),
            ("a\\*", &["a*"], &["ab"]),
            ("a[", &["a["], &["a"]),
        ] {
            for name in names {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in others {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
        assert!(!Patterns::new(&[]).match_name("lo"));
        assert!(!matches("a\0", "a"));
    }
}
