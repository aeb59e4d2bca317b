//! Another process, which does what it is told, a line at a time.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

const PEER: &str = "SESSIONFS_TEST_PEER";
/// Begins an answer: the test runner writes to the same stream.
const ANSWER: &str = "= ";
const PATIENCE: Duration = Duration::from_secs(30);

/// Dropped, it is killed.
pub struct Peer {
    process: Child,
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Peer {
    /// A process that runs the ignored test of this name, which calls [`serve`].
    pub fn new(test: &str) -> Peer {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored", "--nocapture"]).env(PEER, "1");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (commands, output) = (process.stdin.take(), process.stdout.take().unwrap());
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Some(answer) = line.strip_prefix(ANSWER) else { continue };
                if sender.send(answer.to_owned()).is_err() {
                    break;
                }
            }
        });
        Peer { process, commands, answers }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Says what to do, without waiting for it.
    pub fn tell(&mut self, words: &str) {
        writeln!(self.commands.as_mut().unwrap(), "{words}").unwrap();
    }

    /// What it has to say to the oldest thing it was told: text, or the number of an error.
    #[track_caller]
    pub fn answer(&self) -> io::Result<String> {
        let answer = self.answers.recv_timeout(PATIENCE).expect("an answer of the other process");
        match answer.split_once(' ') {
            Some(("ok", text)) => Ok(text.to_owned()),
            Some(("errno", number)) => Err(io::Error::from_raw_os_error(number.parse().unwrap())),
            _ => panic!("no answer: {answer}"),
        }
    }

    #[track_caller]
    pub fn ask(&mut self, words: &str) -> io::Result<String> {
        self.tell(words);
        self.answer()
    }

    /// Whether it has nothing to say yet.
    pub fn is_silent(&self) -> bool {
        matches!(self.answers.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout))
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    /// What it ends with, by itself, or because there is nothing more to do.
    #[track_caller]
    pub fn end(mut self) -> ExitStatus {
        self.commands = None;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the other process does not end");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The other process: does what it is told until nobody is left to tell it.
pub fn serve(mut act: impl FnMut(&[&str]) -> io::Result<String>) {
    if std::env::var_os(PEER).is_none() {
        return;
    }
    for line in io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        // The runner has begun a line of its own.
        match act(&words) {
            Ok(text) => println!("\n{ANSWER}ok {text}"),
            Err(error) => println!("\n{ANSWER}errno {}", error.raw_os_error().unwrap()),
        }
    }
}

/// Waits until it is so.
#[track_caller]
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
