//! A server that does not answer any more, and a file system that can only be reached through it.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::bench::{Bench, Layout};
use crate::support;

/// A FUSE server (linux/fuse.h) of empty directories, until it dies. Those who asked then wait until
/// this is dropped.
struct Server {
    device: File,
    dead: Arc<AtomicBool>,
}

impl Server {
    fn new() -> Option<Server> {
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let (mut served, dead) = (device.try_clone().expect("a descriptor"), Arc::new(AtomicBool::new(false)));
        let of_thread = dead.clone();
        std::thread::spawn(move || {
            let mut request = vec![0; 1 << 20];
            while let Ok(length) = retried(&mut served, &mut request) {
                if of_thread.load(Ordering::SeqCst) || length < 40 {
                    return;
                }
                let Some(answer) = answer(&request[..length]) else { continue };
                let _ = served.write_all(&answer);
            }
        });
        Some(Server { device, dead })
    }

    fn mount_options() -> &'static str {
        "fd=0,rootmode=40000,user_id=0,group_id=0"
    }
}

/// Before it is mounted there is nothing to be read.
fn retried(device: &mut File, request: &mut [u8]) -> std::io::Result<usize> {
    const NOT_MOUNTED: i32 = 1; // EPERM
    loop {
        match device.read(request) {
            Err(error) if error.raw_os_error() == Some(NOT_MOUNTED) => std::thread::yield_now(),
            result => return result,
        }
    }
}

fn answer(request: &[u8]) -> Option<Vec<u8>> {
    const LOOKUP: u32 = 1;
    const FORGET: u32 = 2;
    const GETATTR: u32 = 3;
    const INIT: u32 = 26;
    let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("four bytes"));
    // struct fuse_attr: a directory that has no times and no size.
    let mut attributes = vec![0; 88];
    attributes[0] = 2;
    attributes[60..64].copy_from_slice(&0o40755_u32.to_ne_bytes());
    attributes[64] = 2;
    let (error, body) = match word(4) {
        INIT => {
            (0, [&7_u32.to_ne_bytes()[..], &31_u32.to_ne_bytes(), &[0; 12], &4096_u32.to_ne_bytes(), &[0; 40]].concat())
        }
        // Nothing may be kept: each look at a path asks anew.
        LOOKUP => (0, [&2_u64.to_ne_bytes()[..], &[0; 32], &attributes].concat()),
        GETATTR => (0, [&[0; 16][..], &attributes].concat()),
        FORGET => return None,
        _ => (-38_i32, Vec::new()), // ENOSYS
    };
    let length = u32::try_from(16 + body.len()).expect("short");
    Some([&length.to_ne_bytes()[..], &error.to_ne_bytes(), &request[8..16], &body].concat())
}

#[test]
fn a_file_system_below_a_dead_server_keeps_no_other_frozen() {
    let layout = Layout {
        script: "image a 60M; mkfs.ext4 -q -F a.img; mount -o loop a.img a
                 image b 60M; mkfs.ext4 -q -F b.img; mkdir f",
        points: &["a"],
        needs: &["ext4"],
    };
    let Some(bench) = Bench::new(&layout, &[]) else { return };
    let Some(server) = Server::new() else {
        support::skip("no FUSE here");
        return;
    };
    let device = server.device.try_clone().expect("a descriptor");
    bench.shell_with(Stdio::from(device), &format!("mount -i -t fuse -o {} dead f", Server::mount_options()));
    bench.shell("mount -o loop b.img f/sub");
    server.dead.store(true, Ordering::SeqCst);

    let mut client = bench.agent.connect();
    for _ in 0..2 {
        assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 1);
        assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "frozen");
        assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 1);
        assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
    }
    let hidden = bench.agent.path("f/sub");
    let reply = client.call("guest-fsfreeze-freeze-list", json!({"mountpoints": [bench.points[0], hidden]}));
    let text = format!("failed to open {}: it does not answer", hidden.display());
    assert_eq!(reply["error"]["desc"], text);
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
    // Whoever waits for it ends now.
    drop(server);
    bench.shell("touch a/file");
}
