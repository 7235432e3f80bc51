//! `picoseg completions`: what the shells make of it.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::etc::Etc;
use crate::skip::have;

/// The completions of a shell in a file of their own.
fn script(etc: &Etc, shell: &str) -> std::path::PathBuf {
    etc.write(&format!("completions.{shell}"), &etc.run(&["completions", shell]).exits(0).stdout)
}

/// What a shell prints that runs `text` with the file as `$1`.
fn runs(shell: &mut Command, file: &Path) -> io::Result<Vec<String>> {
    let said = shell.arg(file).stdin(Stdio::null()).output()?;
    assert!(said.status.success(), "{shell:?}: {}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(String::from_utf8_lossy(&said.stderr), "", "{shell:?}");
    Ok(String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect())
}

#[test]
fn bash_completes_commands_and_options() {
    let etc = Etc::new();
    let file = script(&etc, "bash");
    let completed = |words: &[&str]| {
        let text = format!(
            ". \"$1\"; COMP_WORDS=(picoseg {}); COMP_CWORD={}; _picoseg picoseg '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words.len(),
            words.last().expect("a word"),
            words.iter().rev().nth(1).unwrap_or(&"picoseg"),
        );
        runs(Command::new("bash").args(["--norc", "-c", &text, "bash"]), &file).expect("bash")
    };
    assert_eq!(completed(&["sus"]), ["suspend"]);
    assert_eq!(completed(&["audit", "ver"]), ["verify"]);
    assert_eq!(completed(&["attempts", "--fol"]), ["--follow"]);
    assert!(completed(&["''"]).contains(&"status".to_owned()));
}

#[test]
fn fish_completes_commands_and_options() {
    if !have("fish") {
        return;
    }
    let etc = Etc::new();
    let file = script(&etc, "fish");
    let completed = |line: &str| {
        let text = format!("source $argv[1]; complete --do-complete '{line}'");
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "--private", "--command", &text]).env("HOME", etc.path(""));
        let lines = runs(&mut fish, &file).expect("fish");
        lines.iter().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(completed("picoseg sus"), ["suspend"]);
    assert_eq!(completed("picoseg audit ver"), ["verify"]);
    assert_eq!(completed("picoseg attempts --fol"), ["--follow"]);
}

/// Its completion works on a terminal only: here it is read, and its words are looked at.
#[test]
fn zsh_reads_the_completions() {
    if !have("zsh") {
        return;
    }
    let etc = Etc::new();
    let file = script(&etc, "zsh");
    assert!(runs(Command::new("zsh").args(["--no-rcs", "-n"]), &file).expect("zsh").is_empty());
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("#compdef picoseg\n"), "{text}");
    for word in ["'suspend:", "'verify:", "'--follow["] {
        assert!(text.contains(word), "{word}");
    }
}
