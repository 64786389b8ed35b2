//! Policies and reloads at random: nothing is ever allowed that the last good configuration refuses.

use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;

use super::Policy;
use crate::commands::{self, testing};
use crate::config::Config;
use crate::host::Host;
use crate::host::fake::FakeKernel;

/// An item of a list: what stands there, and the commands that it names for whoever reads it with care.
#[derive(Clone, Debug)]
struct Item {
    text: String,
    names: Vec<&'static str>,
    /// One name, separated by commas as it should be.
    proper: bool,
}

fn name() -> impl Strategy<Value = &'static str> {
    let names: Vec<&'static str> = commands::names().collect();
    prop::sample::select(names)
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        6 => name().prop_map(|name| Item { text: name.into(), names: vec![name], proper: true }),
        2 => name().prop_map(|name| Item { text: format!(" {name} "), names: vec![name], proper: true }),
        2 => (name(), name(), prop::sample::select(vec![" ", ";", "; ", "\\t", "|"])).prop_map(|(a, b, between)| Item {
            text: format!("{a}{between}{b}"),
            names: vec![a, b],
            proper: false,
        }),
        1 => name().prop_map(|name| Item { text: name.replace('-', "_"), names: vec![], proper: true }),
        1 => name().prop_map(|name| Item { text: name.to_uppercase(), names: vec![], proper: true }),
        1 => Just(Item { text: String::new(), names: vec![], proper: true }),
    ]
}

/// What a reload may find.
#[derive(Clone, Debug)]
enum File {
    Lists { allow: Vec<Item>, block: Vec<Item> },
    Missing,
    Directory,
    Text(&'static str),
}

fn lists() -> impl Strategy<Value = File> {
    let allow = prop_oneof![Just(Vec::new()), prop::collection::vec(item(), 1..6)];
    (allow, prop::collection::vec(item(), 0..6)).prop_map(|(allow, block)| File::Lists { allow, block })
}

fn file() -> impl Strategy<Value = File> {
    let texts =
        vec!["", "\n# nothing\n", "[general\n", "block-rpcs=\n", "[general]\nverbose=perhaps\n", "[general]\nb"];
    prop_oneof![
        4 => lists(),
        1 => Just(File::Missing),
        1 => Just(File::Directory),
        3 => prop::sample::select(texts).prop_map(File::Text),
    ]
}

/// What a good configuration allows, read with the most suspicious eyes.
fn allowed(allow: &[Item], block: &[Item]) -> BTreeSet<&'static str> {
    let listed: BTreeSet<_> = allow.iter().filter(|item| item.proper).flat_map(|item| item.names.clone()).collect();
    let blocked: BTreeSet<_> = block.iter().flat_map(|item| item.names.clone()).collect();
    // A list that is given and empty is none.
    let is_list = allow.iter().any(|item| !item.text.is_empty()) || allow.len() > 1;
    commands::names().filter(|name| (!is_list || listed.contains(name)) && !blocked.contains(name)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_is_ever_allowed_that_the_last_good_configuration_refuses(
        start in lists(),
        reloads in prop::collection::vec(file(), 0..12),
        by_option: bool,
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("c.conf");
        let write = |file: &File| {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(&path);
            match file {
                File::Lists { allow, block } => {
                    let list = |items: &[Item]| items.iter().map(|item| &*item.text).collect::<Vec<_>>().join(",");
                    // A key file drops blanks in front of a value.
                    let text = format!("[general]\nallow-rpcs={}\nblock-rpcs={}\n", list(allow), list(block));
                    fs::write(&path, text).expect("a file");
                }
                File::Missing => {}
                File::Directory => fs::create_dir(&path).expect("a directory"),
                File::Text(text) => fs::write(&path, text).expect("a file"),
            }
        };
        write(&start);
        // Named on the command line, or found by itself and then perhaps not there.
        let args = crate::cli::parse(["q".into(), "-c".into(), path.clone().into()], false).args;
        let config = match by_option {
            true => Config::load(&args),
            false => Config::load_found(&path),
        };
        let agent = testing::agent(Host::new(dir.path(), Box::new(FakeKernel::default())), config.expect("a good file"));
        let File::Lists { allow, block } = start else { unreachable!() };
        let mut good = allowed(&allow, &block);
        for file in &reloads {
            write(file);
            let reloaded = agent.config().reload();
            let is_good = matches!(file, File::Lists { .. });
            prop_assert_eq!(reloaded.is_ok(), is_good, "{:?}", file);
            if let (File::Lists { allow, block }, Ok(config)) = (file, reloaded) {
                let policy = |config: &Config| Policy::new(&config.allow_rpcs, &config.block_rpcs);
                let told: BTreeSet<&str> = policy(&config).wider_than(&policy(&agent.config())).into_iter().collect();
                let next = allowed(allow, block);
                prop_assert_eq!(told, next.difference(&good).copied().collect::<BTreeSet<_>>());
                good = next;
                agent.reload(config);
            }
            let now: BTreeSet<&str> =
                commands::all().filter(|row| agent.check(row).is_ok()).map(|row| row.name).collect();
            prop_assert_eq!(&now, &good, "after {:?}", file);
        }
    }
}
