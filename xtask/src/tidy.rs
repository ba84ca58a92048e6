//! The rules of the house, read from the sources: imports point down, files stay readable, links are alive,
//! every dependency has its reason, and no path of a developer's machine is committed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Floors of the house, from the ground up. A crate may import from lower floors and, within its own floor,
/// from those named before it.
const FLOORS: [&[&str]; 7] = [
    &["record", "host", "testkit"],
    &["log", "wire", "guard", "formats", "bus"],
    &["broker", "kafka", "stream"],
    &["sql", "routes", "mirror"],
    &["server"],
    &["hunt"],
    &["cli"],
];

/// A file longer than this is reported.
const FILE_LINES: usize = 600;
/// Files that may stay longer than [`FILE_LINES`], at most this many. The number may only go down.
const LONG_FILES_MAX: usize = 12;

/// Checks everything; the first broken rule of each kind is an error with its place.
pub fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let mut broken = Vec::new();
    broken.extend(floors(root)?);
    broken.extend(dependency_reasons(root)?);
    let files = tracked(root)?;
    broken.extend(dead_links(root, &files)?);
    broken.extend(long_files(root, &files)?);
    broken.extend(machine_paths(root, &files)?);
    for line in &broken {
        println!("{line}");
    }
    ensure!(broken.is_empty(), "{} rules of the house are broken", broken.len());
    println!("tidy");
    Ok(())
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    ensure!(output.status.success(), "git ls-files failed");
    Ok(String::from_utf8(output.stdout)?
        .lines()
        .map(|line| root.join(line))
        .filter(|path| path.is_file())
        .collect())
}

fn floors(root: &Path) -> Result<Vec<String>> {
    let mut height = BTreeMap::new();
    for (floor, names) in FLOORS.iter().enumerate() {
        for (place, name) in names.iter().enumerate() {
            height.insert(*name, (floor, place));
        }
    }
    let mut broken = Vec::new();
    for entry in std::fs::read_dir(root.join("crates"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let Some(&own) = height.get(name.as_str()) else {
            bail!("crates/{name} stands on no floor: add it to FLOORS in xtask/src/tidy.rs");
        };
        let manifest: toml::Table = std::fs::read_to_string(path.join("Cargo.toml"))?.parse()?;
        let imports = manifest
            .get("dependencies")
            .and_then(toml::Value::as_table)
            .into_iter()
            .flat_map(|table| table.keys());
        for import in imports.filter_map(|key| key.strip_prefix("herdsman-")) {
            if height.get(import).is_none_or(|&other| other >= own) {
                broken.push(format!("crates/{name} imports {import}, which does not lie below it"));
            }
        }
    }
    Ok(broken)
}

fn dependency_reasons(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("Cargo.toml"))?;
    let section = text
        .split("[workspace.dependencies]")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .unwrap_or_default();
    Ok(section
        .lines()
        .filter(|line| line.contains(" = ") && !line.starts_with('#') && !line.contains("path = "))
        .filter(|line| line.rsplit_once('#').is_none_or(|(_, reason)| reason.trim().len() < 10))
        .map(|line| format!("Cargo.toml: no reason beside {}", line.split(' ').next().unwrap_or_default()))
        .collect())
}

fn dead_links(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(file)?;
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            if !file.parent().unwrap_or(root).join(path).exists() {
                broken.push(format!("{}: dead link {target}", file.strip_prefix(root)?.display()));
            }
        }
    }
    Ok(broken)
}

fn long_files(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut long = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let lines = std::fs::read_to_string(file)?.lines().count();
        if lines > FILE_LINES {
            long.push((lines, file.strip_prefix(root)?.display().to_string()));
        }
    }
    long.sort_unstable();
    if long.len() <= LONG_FILES_MAX {
        return Ok(Vec::new());
    }
    let list: Vec<String> = long.iter().map(|(lines, file)| format!("{file} ({lines})")).collect();
    Ok(vec![format!(
        "{} files over {FILE_LINES} lines, {LONG_FILES_MAX} allowed: {}",
        long.len(),
        list.join(", ")
    )])
}

fn machine_paths(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let needles: Vec<String> = ["work", "root", "home"].iter().map(|name| format!("/{name}/")).collect();
    let mut broken = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        for (number, line) in text.lines().enumerate() {
            let found = needles.iter().any(|needle| {
                line.match_indices(needle.as_str()).any(|(at, _)| {
                    let before = line.get(..at).and_then(|text| text.chars().last());
                    before
                        .is_none_or(|character| !(character.is_alphanumeric() || "_.-/:".contains(character)))
                })
            });
            if found && !line.contains("/home/ana") {
                broken.push(format!(
                    "{}:{}: a path of one machine",
                    file.strip_prefix(root)?.display(),
                    number + 1
                ));
            }
        }
    }
    Ok(broken)
}
