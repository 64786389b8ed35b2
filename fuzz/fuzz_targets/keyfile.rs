//! Configuration and state files: no panic, whatever is in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qemu_ga::keyfile::KeyFile;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = KeyFile::parse(data) else { return };
    for group in ["general", "global", "limits", "network"] {
        for key in file.keys(group).map(str::to_owned).collect::<Vec<_>>() {
            let _ = (file.string(group, &key), file.boolean(group, &key), file.number(group, &key));
        }
    }
});
