//! Mapped memory: one with the file in both directions, between processes, and at its edges.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use crate::harness::{Session, can_mount};
use crate::process::{self, Peer, eventually};
use crate::sys::{self, Map, errno};

const PAGE: usize = 4096;
const PAGES: usize = 16;
const LENGTH: usize = PAGES * PAGE;

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// What the other process of these tests has in its hands.
#[derive(Default)]
struct Hands {
    files: HashMap<String, File>,
    maps: HashMap<String, Map>,
}

impl Hands {
    fn act(&mut self, words: &[&str]) -> io::Result<String> {
        let number = |word: &str| word.parse::<usize>().unwrap();
        match *words {
            ["map", name, path, length] => {
                let file = OpenOptions::new().read(true).write(true).open(path)?;
                self.maps.insert(name.to_owned(), Map::of(&file, number(length))?);
                self.files.insert(name.to_owned(), file);
            }
            ["truncate", name, length] => self.files[name].set_len(length.parse().unwrap())?,
            ["load", name, at] => return Ok(self.maps[name][number(at)].to_string()),
            ["store", name, at, value] => self.maps.get_mut(name).unwrap()[number(at)] = value.parse().unwrap(),
            ["sync", name] => self.maps[name].sync()?,
            _ => panic!("{words:?}"),
        }
        Ok(String::new())
    }
}

#[test]
#[ignore = "the other process of the tests in this file"]
fn other() {
    let mut hands = Hands::default();
    process::serve(|words| hands.act(words));
}

fn peer() -> Peer {
    Peer::new("mapping::other")
}

#[test]
fn a_mapping_sees_what_every_call_does() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let (path, from) = (session.path("f"), session.path("from"));
    let (file, from) = (read_write(&path), read_write(&from));
    file.write_all_at(&[1; LENGTH], 0).unwrap();
    from.write_all_at(&[9; LENGTH], 0).unwrap();
    let map = Map::of(&file, LENGTH).unwrap();
    let looked = Map::read_only(&File::open(&path).unwrap(), LENGTH).unwrap();
    let mut other = peer();
    other.ask(&format!("map f {} {LENGTH}", path.display())).unwrap();
    let mut right = vec![1; LENGTH];
    // Each page is in the page tables of both processes before each change, which has to take effect there.
    let mut same = |what: &str, at: usize, until: usize, value: u8| {
        right[at..until].fill(value);
        let wrong = (0..LENGTH).find(|byte| map[*byte] != right[*byte]);
        assert_eq!(wrong, None, "{what}: the first byte that differs");
        assert!(looked[..] == right[..], "{what}: in a mapping that is read only");
        for byte in [at.saturating_sub(1), at, until - 1, until.min(LENGTH - 1)] {
            let seen = other.ask(&format!("load f {byte}")).unwrap();
            assert_eq!(seen, right[byte].to_string(), "{what}: byte {byte} in the other process");
        }
    };
    same("nothing yet", 0, LENGTH, 1);
    file.write_all_at(&[2; 5000], 100).unwrap();
    same("write", 100, 5100, 2);
    let mut appended = OpenOptions::new().append(true).open(&path).unwrap();
    file.set_len((LENGTH - 10) as u64).unwrap();
    appended.write_all(&[3; 10]).unwrap();
    same("append", LENGTH - 10, LENGTH, 3);
    let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    direct.write_all_at(&[4; 2 * PAGE], 4 * PAGE as u64).unwrap();
    same("write by O_DIRECT", 4 * PAGE, 6 * PAGE, 4);
    assert_eq!(sys::copy_range(&from, 0, &file, 6 * PAGE as i64, 2 * PAGE).unwrap(), 2 * PAGE as u64);
    same("copy_file_range", 6 * PAGE, 8 * PAGE, 9);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    sys::fallocate(&file, punch, 4100, 6000).unwrap();
    same("punching a hole", 4100, 10_100, 0);
    sys::fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, 6 * PAGE as i64, PAGE as i64).unwrap();
    same("zeroing a range", 6 * PAGE, 7 * PAGE, 0);
    file.set_len((LENGTH - 3 * PAGE - 5) as u64).unwrap();
    file.set_len(LENGTH as u64).unwrap();
    same("truncating, and back", LENGTH - 3 * PAGE - 5, LENGTH, 0);
    OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    file.set_len(LENGTH as u64).unwrap();
    same("O_TRUNC, and back", 0, LENGTH, 0);
}

#[test]
fn every_call_sees_what_is_stored_in_a_mapping() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let path = session.path("f");
    let file = read_write(&path);
    file.set_len(LENGTH as u64).unwrap();
    fs::hard_link(&path, session.path("link")).unwrap();
    let mut map = Map::of(&file, LENGTH).unwrap();
    let mut other = peer();
    other.ask(&format!("map f {} {LENGTH}", session.path("link").display())).unwrap();
    let mut byte = [0; 1];

    map[10] = 1;
    file.read_exact_at(&mut byte, 10).unwrap();
    assert_eq!(byte, [1], "read");
    map[PAGE] = 2;
    let mut content = Vec::new();
    File::open(session.path("link")).unwrap().read_to_end(&mut content).unwrap();
    assert_eq!(content[PAGE], 2, "read by another name");
    map[2 * PAGE] = 3;
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut pages = vec![0; 4 * PAGE];
    direct.read_exact_at(&mut pages, 0).unwrap();
    assert_eq!((pages[10], pages[PAGE], pages[2 * PAGE]), (1, 2, 3), "read by O_DIRECT");
    map[3 * PAGE] = 4;
    let copy = read_write(&session.path("copy"));
    assert_eq!(sys::copy_range(&file, 0, &copy, 0, LENGTH).unwrap(), LENGTH as u64);
    assert_eq!(fs::read(session.path("copy")).unwrap()[3 * PAGE], 4, "copy_file_range");
    map[4 * PAGE] = 5;
    assert_eq!(other.ask(&format!("load f {}", 4 * PAGE)).unwrap(), "5", "the mapping of another process");
    other.ask(&format!("store f {} 6", 5 * PAGE)).unwrap();
    assert_eq!(map[5 * PAGE], 6, "what another process has stored");
    // A write to one half of a page takes nothing from the other half, which only memory knows.
    map[6 * PAGE] = 7;
    file.write_all_at(&[8], 6 * PAGE as u64 + 2000).unwrap();
    assert_eq!((map[6 * PAGE], map[6 * PAGE + 2000]), (7, 8));
    // Nor does a hole that ends within a page, or a new length.
    map[8 * PAGE - 1] = 9;
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    sys::fallocate(&file, punch, 6 * PAGE as i64 + 2000, PAGE as i64).unwrap();
    assert_eq!((map[6 * PAGE], map[6 * PAGE + 2000], map[8 * PAGE - 1]), (7, 0, 9));
    map[9 * PAGE] = 10;
    file.set_len(9 * PAGE as u64 + 1).unwrap();
    assert_eq!(map[9 * PAGE], 10);

    other.ask("sync f").unwrap();
    assert!(other.end().success());
    drop((map, file, copy, direct));
    let before = fs::read(&path).unwrap();
    session.remount();
    let after = fs::read(&path).unwrap();
    assert!(before == after, "what was seen is what is kept");
    let stored: Vec<u8> = [10, PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE, 5 * PAGE, 6 * PAGE, 8 * PAGE - 1, 9 * PAGE]
        .iter()
        .map(|at| after[*at])
        .collect();
    assert_eq!(stored, [1, 2, 3, 4, 5, 6, 7, 9, 10]);
}

#[test]
fn a_private_mapping_keeps_its_stores_to_itself() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let path = session.path("f");
    fs::write(&path, vec![1; LENGTH]).unwrap();
    let file = File::open(&path).unwrap();
    assert_eq!(errno(Map::of(&file, LENGTH).map(drop)), libc::EACCES, "shared, of a file that is only read");
    let mut map = Map::private(&file, LENGTH).unwrap();
    map[10] = 2;
    read_write(&path).write_all_at(&[3; 2 * PAGE], 0).unwrap();
    assert_eq!((map[10], map[11]), (2, 1), "a page that was stored to is its own");
    assert_eq!(map[PAGE], 3, "one that was not is still the file's");
    map.sync().unwrap();
    assert_eq!(fs::read(&path).unwrap()[10], 3);
    drop((map, file));
    session.remount();
    let content = fs::read(&path).unwrap();
    assert!(content[..2 * PAGE].iter().all(|b| *b == 3) && content[2 * PAGE..].iter().all(|b| *b == 1));
}

#[test]
fn a_mapping_outlives_its_descriptor_and_its_name() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let free = || sys::statvfs(&session.root()).unwrap().f_bfree;
    let (gone, replaced) = (session.path("gone"), session.path("replaced"));
    fs::write(session.path("new"), b"new").unwrap();
    fs::write(&replaced, vec![2; LENGTH]).unwrap();
    let without = free();
    fs::write(&gone, vec![1; LENGTH]).unwrap();
    let mut maps = [&gone, &replaced].map(|path| Map::of(&read_write(path), LENGTH).unwrap());
    fs::remove_file(&gone).unwrap();
    fs::rename(session.path("new"), &replaced).unwrap();
    for (map, value) in maps.iter_mut().zip([1, 2]) {
        assert!(map.iter().all(|b| *b == value));
        map[PAGE + 1] = 7;
        map.sync().unwrap();
        // The page comes from the server again, which still has the file.
        // SAFETY: the range is one page of the mapping; it is shared, so what was stored stays in the file.
        assert_eq!(unsafe { libc::madvise(map[PAGE..].as_ptr() as *mut _, PAGE, libc::MADV_DONTNEED) }, 0);
        assert_eq!((map[PAGE], map[PAGE + 1]), (value, 7));
    }
    assert_eq!(fs::read(&replaced).unwrap(), b"new");
    assert!(free() < without, "mapped pieces are still in use");
    drop(maps);
    // 16 pieces that were `replaced` are free as well.
    eventually("the space of both is free", || free() == without + PAGES as u64);
}

#[test]
fn behind_the_end_of_a_mapped_file_is_a_signal() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let path = session.path("f");
    let file = read_write(&path);
    let map_it = format!("map f {} {LENGTH}", path.display());
    let dies = |other: Peer, what: &str| assert_eq!(other.end().signal(), Some(libc::SIGBUS), "{what}");
    let touches = |prepare: &dyn Fn(&mut Peer), command: &str, what: &str| {
        file.set_len(LENGTH as u64).unwrap();
        let mut other = peer();
        other.ask(&map_it).unwrap();
        other.ask(&format!("store f {} 1", 3 * PAGE)).unwrap();
        prepare(&mut other);
        other.tell(command);
        dies(other, what);
    };
    let at = format!("{}", 3 * PAGE);
    let cut = |_: &mut Peer| file.set_len(2 * PAGE as u64).unwrap();
    touches(&cut, &format!("load f {at}"), "a load from what somebody else has cut off");
    touches(&cut, &format!("store f {at} 1"), "a store to it");
    let cut_itself = |other: &mut Peer| drop(other.ask("truncate f 100").unwrap());
    touches(&cut_itself, &format!("load f {at}"), "a load from what it has cut off itself");
    touches(&cut_itself, &format!("load f {PAGE}"), "the first page behind the end");

    // The page with the end in it is there as a whole. What lies behind the end is zeros, and is never the file's.
    file.set_len(0).unwrap();
    file.write_all_at(&[5; 100], 0).unwrap();
    let mut other = peer();
    other.ask(&map_it).unwrap();
    assert_eq!(other.ask("load f 99").unwrap(), "5");
    assert_eq!(other.ask("load f 100").unwrap(), "0");
    other.ask("store f 4000 7").unwrap();
    other.ask("sync f").unwrap();
    assert_eq!(fs::read(&path).unwrap(), [5; 100]);
    assert_eq!(file.metadata().unwrap().len(), 100);
    // When the file grows, the mapping has more of it without being made again.
    file.write_all_at(&[6; 1], 3 * PAGE as u64).unwrap();
    assert_eq!(other.ask(&format!("load f {at}")).unwrap(), "6");
    assert_eq!((other.ask("load f 4000").unwrap().as_str(), fs::read(&path).unwrap()[4000]), ("0", 0));
    assert_eq!(other.ask(&format!("load f {PAGE}")).unwrap(), "0");
    assert!(other.end().success());
}

#[test]
fn stores_that_do_not_fit_are_an_error_of_msync_and_close_and_the_others_are_kept() {
    if !can_mount() {
        return;
    }
    let mut session = Session::with_limits(1 << 20, 100);
    let (path, solid) = (session.path("hole"), session.path("solid"));
    let free = |session: &Session| sys::statvfs(&session.root()).unwrap().f_bfree;
    let file = read_write(&path);
    file.set_len(LENGTH as u64).unwrap();
    let allocated = read_write(&solid);
    sys::fallocate(&allocated, 0, 0, LENGTH as i64).unwrap();
    let filler = read_write(&session.path("filler"));
    let room = 5;
    sys::fallocate(&filler, 0, 0, (free(&session) - room) as i64 * PAGE as i64).unwrap();
    assert_eq!(free(&session), room);

    let mut map = Map::of(&file, LENGTH).unwrap();
    map.fill(1);
    assert_eq!(errno(map.sync()), libc::ENOSPC, "msync");
    assert_eq!((free(&session), file.metadata().unwrap().blocks() / 8), (0, room), "what fits is written");
    // What was allocated never fails, also now, and also in the hole's file.
    let mut sure = Map::of(&allocated, LENGTH).unwrap();
    sure.fill(2);
    sure.sync().expect("pages that are allocated");
    drop(sure);
    sys::close(allocated).expect("pages that are allocated");

    // Who only closes learns it there.
    map.fill(3);
    drop(map);
    assert_eq!(errno(sys::close(file)), libc::ENOSPC, "close");
    drop(filler);
    session.remount();
    let content = fs::read(&path).unwrap();
    let (kept, lost): (Vec<_>, Vec<_>) = content.chunks(PAGE).partition(|page| page.iter().all(|b| *b == 3));
    assert_eq!(kept.len() as u64, room, "the pages that had room have the last store");
    assert!(lost.iter().all(|page| page.iter().all(|b| *b == 0)), "the others are the hole they were");
    assert!(fs::read(&solid).unwrap().iter().all(|b| *b == 2));

    // With room again, everything is as if nothing had been.
    fs::remove_file(session.path("filler")).unwrap();
    let file = read_write(&path);
    let mut map = Map::of(&file, LENGTH).unwrap();
    map.fill(4);
    map.sync().unwrap();
    drop(map);
    sys::close(file).unwrap();
    session.remount();
    assert!(fs::read(&path).unwrap().iter().all(|b| *b == 4));
}

/// What is stored counts as a hole until it is written back: the kernel passes the question on without doing that.
#[test]
fn seek_data_finds_what_was_stored_and_written_back() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let file = read_write(&session.path("f"));
    file.set_len(LENGTH as u64).unwrap();
    let mut map = Map::of(&file, LENGTH).unwrap();
    map[3 * PAGE + 5] = 1;
    map.sync().unwrap();
    assert_eq!(sys::seek(&file, 0, libc::SEEK_DATA).unwrap(), 3 * PAGE as u64, "after msync");
    map[PAGE] = 2;
    drop(map);
    assert_eq!(sys::seek(&file, 0, libc::SEEK_DATA).unwrap(), PAGE as u64, "after munmap");
    assert_eq!(sys::seek(&file, PAGE as i64, libc::SEEK_HOLE).unwrap(), 2 * PAGE as u64);
}
