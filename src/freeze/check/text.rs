//! The report for people.

use std::fmt::{self, Display, Formatter};

use super::{Action, FileSystem, Report};

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let with = |action| self.file_systems.iter().filter(move |file_system| file_system.action == action);
        table(f, "Frozen, in this order:", with(Action::Freeze))?;
        table(f, "Only written back:", with(Action::Sync))?;
        table(f, "Left alone:", with(Action::Skip))?;
        list(f, "Hooks, told before the freeze in this order:", self.hooks.iter().map(|hook| &hook.path))?;
        list(f, "Warnings:", self.warnings.iter())?;
        list(f, "Problems:", self.problems.iter())?;
        match self.reliable {
            true => writeln!(f, "A backup can rely on this freeze."),
            false => writeln!(f, "A backup can NOT rely on this freeze."),
        }
    }
}

fn list<T: Display>(f: &mut Formatter<'_>, head: &str, lines: impl Iterator<Item = T>) -> fmt::Result {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    writeln!(f, "{head}")?;
    for line in lines {
        writeln!(f, "  {}", printable(&line.to_string()))?;
    }
    writeln!(f)
}

fn table<'a>(f: &mut Formatter<'_>, head: &str, rows: impl Iterator<Item = &'a FileSystem>) -> fmt::Result {
    let rows: Vec<[String; 4]> = rows.map(cells).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let (a, b, c) = (width(0), width(1), width(2));
    let lines = rows.iter().map(|[point, kind, source, note]| format!("{point:a$}  {kind:b$}  {source:c$}  {note}"));
    list(f, head, lines.map(|line| line.trim_end().to_owned()))
}

fn cells(row: &FileSystem) -> [String; 4] {
    let note = match &row.reason {
        Some(reason) => reason.clone(),
        None if row.stored_on.is_empty() => String::new(),
        None => format!("stored on {}", row.stored_on.join(" and ")),
    };
    [row.mountpoint.clone(), row.r#type.clone(), row.source.clone(), note]
}

/// Names come from the guest's users; none may play with the terminal.
fn printable(line: &str) -> String {
    line.chars().map(|c| if crate::log::is_deceptive(c) { '?' } else { c }).collect()
}
