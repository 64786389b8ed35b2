//! `docs/protocol.md` says the same as the schema: each command, member, word, error text and example stands
//! in it, and nothing else does.

mod support;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use qga_protocol::schema::*;
use serde::Deserialize;
use support::members::{Member, Types};
use support::samples::{Visit, visit_all};
use support::{wire, words};

/// The text below each `###` heading.
struct Page {
    sections: BTreeMap<String, String>,
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Page {
    fn read() -> Page {
        let mut sections = BTreeMap::new();
        for part in read("protocol.md").split("\n### ").skip(1) {
            let (heading, text) = part.split_once('\n').unwrap_or((part, ""));
            let text = text.split("\n## ").next().unwrap_or_default().to_owned();
            assert!(sections.insert(heading.to_owned(), text).is_none(), "two sections are called {heading}");
        }
        Page { sections }
    }

    fn section(&self, name: &str) -> &str {
        self.sections.get(name).unwrap_or_else(|| panic!("docs/protocol.md has no section \"### {name}\""))
    }

    /// The rows of a section's table.
    fn rows(&self, name: &str) -> impl Iterator<Item = [&str; 2]> {
        let rows = self.section(name).lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| {
            let mut cells = row.split(" | ").map(|cell| cell.trim_matches(['|', ' ', '`']));
            [(); 2].map(|()| cells.next().unwrap_or_default())
        })
    }

    /// Members and their types.
    fn members(&self, name: &str) -> Vec<String> {
        self.rows(name).map(|[member, kind]| format!("{member}: {kind}")).collect()
    }

    /// The words of an enumeration.
    fn words(&self, name: &str) -> Vec<&str> {
        self.rows(name).map(|[word, _]| word).collect()
    }

    /// The items of a section's list: error texts.
    fn items(&self, name: &str) -> Vec<&str> {
        let items = self.section(name).lines().filter_map(|line| line.strip_prefix("- `"));
        items.filter_map(|item| item.strip_suffix('`')).collect()
    }
}

/// What the schema says of a command besides its members.
fn facts(command: &Description) -> String {
    let mut facts = format!("Since {}; ", command.since);
    facts += match command.platforms {
        Platforms::All => "Linux and Windows",
        Platforms::Linux => "Linux",
        Platforms::Windows => "Windows",
    };
    if command.while_frozen {
        facts += "; works while frozen";
    }
    if !command.replies {
        facts += "; success is not answered";
    }
    if command.delimited {
        facts += "; a byte 0xFF precedes the reply";
    }
    facts + "."
}

/// The members whose type is different ways to say one thing.
const ALTERNATES: [(&str, &str); 2] = [("whence", "FileWhence"), ("capture-output", "ExecCaptureOutput")];

/// Members as the documentation has them.
fn described(members: &[Member]) -> Vec<String> {
    let describe = |member: &Member| {
        let name = member.name;
        let alternate = ALTERNATES.iter().find(|(member, _)| *member == name).map(|(_, kind)| *kind);
        let kind = alternate.or(member.kind.as_deref()).unwrap_or_else(|| panic!("no sample has {name}"));
        format!("{name}: {}{}", linked(kind), if member.optional { ", optional" } else { "" })
    };
    members.iter().map(describe).collect()
}

/// A kind of value; the names of types are links.
fn linked(kind: &str) -> String {
    match kind.strip_prefix("array of ") {
        Some(element) => format!("array of {}", linked(element)),
        None if kind.starts_with(char::is_uppercase) => format!("[{kind}](#{})", kind.to_lowercase()),
        None => kind.to_owned(),
    }
}

/// The type of a result in words.
fn returned(type_name: &str) -> String {
    let (array, name) = type_name.strip_prefix("alloc::vec::Vec<").map_or(("", type_name), |name| ("array of ", name));
    let name = name.trim_end_matches('>').rsplit("::").next().unwrap_or_default();
    let element = match name.trim_end_matches("<'_").trim_end_matches('<') {
        "i64" | "usize" => "integer".to_owned(),
        "Empty" => "`{}`".to_owned(),
        name => linked(name),
    };
    format!("{array}{element}")
}

/// The first sample of each command as a request and its reply.
#[derive(Default)]
struct Examples {
    of: BTreeMap<&'static str, String>,
    returns: BTreeMap<&'static str, String>,
    arguments: BTreeMap<&'static str, &'static str>,
    types: Types,
}

impl Visit for Examples {
    fn visit<C>(&mut self, arguments: C, returns: C::Returns<'static>)
    where
        C: Command + Deserialize<'static> + PartialEq + Debug,
        C::Returns<'static>: PartialEq + Debug,
    {
        self.types.record(&arguments);
        self.types.record(&returns);
        let name = std::any::type_name::<C>().rsplit("::").next().unwrap_or_default();
        self.arguments.insert(C::NAME, name.split('<').next().unwrap_or_default());

        let arguments = wire::text(&arguments);
        let arguments = if arguments == "{}" { String::new() } else { format!(", \"arguments\": {arguments}") };
        let mut example = format!("```\n-> {{\"execute\": \"{}\"{arguments}}}\n", C::NAME);
        if C::REPLIES {
            example += &format!("<- {{\"return\": {}}}\n", wire::text(&returns));
        }
        self.of.entry(C::NAME).or_insert(example + "```\n");
        self.returns.insert(C::NAME, returned(std::any::type_name::<C::Returns<'static>>()));
    }
}

fn examples() -> Examples {
    let mut examples = Examples::default();
    visit_all(&mut examples);
    examples
}

#[test]
fn every_command_is_described() {
    let (page, examples) = (Page::read(), examples());
    for command in COMMANDS {
        let name = command.name;
        let section = page.section(name);
        let facts = facts(command);
        assert!(section.contains(&format!("\n{facts}")), "{name}: \"{facts}\" is missing");
        let members = &examples.types.structs[examples.arguments[name]];
        assert_eq!(page.members(name), described(members), "{name}: arguments");
        assert_eq!(page.items(name), command.errors, "{name}: errors");
        let returned = if command.replies { examples.returns[name].as_str() } else { "nothing" };
        assert!(section.contains(&format!("\nReturns: {returned}.\n")), "{name}: \"Returns: {returned}.\" is missing");
        let example = &examples.of[name];
        assert!(section.contains(example), "{name}: the example is missing:\n{example}");
    }
}

#[test]
fn every_type_is_described() {
    let page = Page::read();
    for (name, members) in examples().types.structs {
        if name != "Empty" && !name.starts_with("Guest") {
            assert_eq!(page.members(name), described(&members), "{name}: members");
        }
    }
}

/// The enumerations, those that are alternates as well, with their words.
fn enumerations() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("DiskBusType", words::of::<DiskBusType>()),
        ("ExecCaptureOutput", words::of::<ExecCaptureOutput>()),
        ("FileWhence", words::of::<FileWhence>()),
        ("FsfreezeStatus", words::of::<FsfreezeStatus>()),
        ("IpAddressType", words::of::<IpAddressType>()),
        ("MemoryBlockResponseType", words::of::<MemoryBlockResponseType>()),
    ])
}

#[test]
fn every_word_is_described() {
    let page = Page::read();
    let enumerations = enumerations();
    for name in examples().types.enums {
        assert!(enumerations.contains_key(name), "{name} is not in the list of enumerations");
    }
    for (name, words) in enumerations {
        assert_eq!(page.words(name), words, "{name}: words");
    }
}

#[test]
fn common_errors_are_described() {
    assert_eq!(Page::read().items("Errors of every command"), COMMON_ERRORS);
}

/// What has no members of its own.
const UNIONS: [&str; 2] = ["CpuStats", "NetworkRoute"];

#[test]
fn nothing_else_is_described() {
    let (examples, enumerations) = (examples(), enumerations());
    for heading in Page::read().sections.keys() {
        let name = heading.as_str();
        let known = examples.of.contains_key(name)
            || examples.types.structs.contains_key(name)
            || enumerations.contains_key(name)
            || UNIONS.contains(&name)
            || name == "Errors of every command";
        assert!(known, "there is nothing called {name}");
    }
}

#[test]
fn links_and_obligations_lead_somewhere() {
    let (page, text) = (Page::read(), read("protocol.md"));
    let anchors: Vec<String> = page.sections.keys().map(|name| name.to_lowercase().replace(' ', "-")).collect();
    let links = text.split("](#").skip(1).filter_map(|rest| rest.split_once(')')).map(|(anchor, _)| anchor);
    for anchor in links {
        assert!(anchors.iter().any(|known| known == anchor), "#{anchor} leads nowhere");
    }
    let obligations = read("obligations.md");
    let lines = text.lines().filter_map(|line| line.strip_prefix("Obligations: "));
    let cited: Vec<&str> = lines.flat_map(|line| line.trim_end_matches('.').split(", ")).collect();
    for number in &cited {
        assert!(obligations.contains(&format!("\n| {number} | ")), "{number} is not in docs/obligations.md");
    }
    assert!(!cited.is_empty(), "no command names its obligations");
}
