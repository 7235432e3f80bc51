//! A program that connects with its first instruction: `knock ADDR...`, then to each address that a line of stdin names.
//! It prints a line for each: `ok` or the error, and its cgroup. `start PROGRAM ARGUMENT...` on stdin runs another one,
//! `fail PROGRAM` executes one with more than the kernel takes.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

fn main() {
    for address in std::env::args().skip(1) {
        knock(&address);
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        match line.strip_prefix("start ") {
            Some(words) => {
                let mut words = words.split(' ');
                let mut command = Command::new(words.next().unwrap());
                command.args(words).stdin(Stdio::null()).status().unwrap();
            }
            None => match line.strip_prefix("fail ") {
                Some(program) => drop(Command::new(program).arg("x".repeat(1 << 20)).exec()),
                None => knock(&line),
            },
        }
    }
}

fn knock(address: &str) {
    let outcome = match exchange(address) {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    println!("{outcome} {cgroup}");
    std::io::stdout().flush().unwrap();
}

fn exchange(address: &str) -> std::io::Result<()> {
    let address = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(700))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"word")?;
    let mut word = [0; 4];
    stream.read_exact(&mut word)
}
