//! Files into a guest that does not run yet, without mounting anything.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use super::subject::File;

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').expect("an absolute path")
}

/// Into an ext4 image, by debugfs; libraries only where the image has none of that name.
pub fn into_image(image: &Path, files: &[File], libraries: &[File]) {
    let mut commands = String::new();
    for file in files.iter().chain(libraries.iter().filter(|file| !has(image, &file.to))) {
        let (directory, name) = split(&file.to);
        let (from, mode) = (file.from.display(), file.mode);
        writeln!(commands, "cd {directory}\nrm {name}\nwrite {from} {name}\nset_inode_field {name} mode 0100{mode:o}")
            .expect("write to a string");
        writeln!(commands, "set_inode_field {name} uid 0\nset_inode_field {name} gid 0").expect("write to a string");
    }
    let script = image.with_extension("debugfs");
    fs::write(&script, commands).expect("write the debugfs script");
    debugfs(image, &["-w", "-f", &script.to_string_lossy()]);
    for file in files {
        // debugfs ends with status 0 whatever happens.
        assert!(has(image, &file.to), "{} did not get into {}", file.to, image.display());
    }
}

fn has(image: &Path, path: &str) -> bool {
    debugfs(image, &["-R", &format!("stat {path}")]).contains("Inode:")
}

/// The output of debugfs on an image.
pub fn debugfs(image: &Path, arguments: &[&str]) -> String {
    let output = Command::new("/usr/sbin/debugfs").args(arguments).arg(image).output().expect("run debugfs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Behind an initial ram disk: the kernel unpacks concatenated archives one after another.
pub fn into_initrd(initrd: &Path, files: &[File]) {
    let tree = initrd.with_extension("tree");
    for file in files {
        let to = tree.join(file.to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a directory")).expect("make a directory");
        fs::copy(&file.from, &to).expect("copy a file for the initrd");
        fs::set_permissions(&to, fs::Permissions::from_mode(file.mode)).expect("set a mode");
    }
    for name in ["lib", "lib64"] {
        symlink(format!("usr/{name}"), tree.join(name)).expect("make a link");
    }
    let archive = fs::File::options().append(true).open(initrd).expect("open the initrd");
    let status = Command::new("sh")
        .args(["-c", "find . | cpio -o -H newc --quiet | gzip -1"])
        .current_dir(&tree)
        .stdin(Stdio::null())
        .stdout(archive)
        .status()
        .expect("run cpio");
    assert!(status.success(), "cpio: {status}");
}
