//! The reading end of a tar stream: ustar, pax and GNU names; sparse files of GNU format 1.0.
//!
//! The `tar` crate's own reader splits pax records at line ends, which binary xattrs contain, and frames by the
//! header's size, which pax may overrule: so only its header is used here.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::acl_text::{ACLS, from_text};
use super::item::{Item, ItemKind, Sink, Target, Totals, Xattrs};
use super::{Failures, Shown, TreeError};
use crate::base::Timestamp;
use crate::base::limits::FILE_SIZE_MAX;

const BLOCK: usize = 512;
/// Bytes of all extended headers before one item, so that an archive cannot fill the memory with them: 255 xattrs of the
/// largest size fit.
const EXTENSION_MAX: u64 = 16 << 20;
/// Bytes handed on at a time.
const CHUNK: usize = 1 << 20;

/// Reads a whole archive into `target`. What cannot be made is left out, and is the error at the end.
pub(super) fn unpack(input: &mut dyn Read, target: &mut dyn Target) -> Result<Totals, TreeError> {
    let mut progress = Progress::default();
    let read = entries(input, target, &mut progress);
    // Also of a tree that breaks off: the directories that are there shall have the modes they should.
    let finished = target.finish();
    read?;
    if let Err(error) = finished {
        progress.failures.take(error)?;
    }
    progress.failures.result(progress.totals)
}

#[derive(Default)]
struct Progress {
    totals: Totals,
    failures: Failures,
    /// A directory that could not be made: all that is in it cannot be either, which is not said for each.
    lost: Option<Vec<Vec<u8>>>,
}

fn entries(input: &mut dyn Read, target: &mut dyn Target, progress: &mut Progress) -> Result<(), TreeError> {
    let mut pending = Extensions::default();
    loop {
        let mut block = [0; BLOCK];
        input.read_exact(&mut block).map_err(truncated)?;
        if block == [0; BLOCK] {
            // Whatever follows the end belongs to the archive still: it is read, so that the writer can end.
            io::copy(input, &mut io::sink())?;
            return Ok(());
        }
        let header = Header::from_byte_slice(&block);
        verify(header)?;
        match header.entry_type() {
            EntryType::XHeader => {
                let bytes = pending.read(input, header)?;
                pending.pax(&bytes)?;
            }
            // What holds for all that follows is nothing that we keep.
            EntryType::XGlobalHeader => drop(Extensions::default().read(input, header)?),
            EntryType::GNULongName => pending.path = Some(c_string(pending.read(input, header)?)),
            EntryType::GNULongLink => pending.link = Some(c_string(pending.read(input, header)?)),
            _ => item(input, header, std::mem::take(&mut pending), target, progress)?,
        }
    }
}

/// One item and its data.
fn item(
    input: &mut dyn Read,
    header: &Header,
    pending: Extensions,
    target: &mut dyn Target,
    progress: &mut Progress,
) -> Result<(), TreeError> {
    let stored = pending.size.map_or_else(|| header.entry_size().map_err(bad), Ok)?;
    let size = pending.real_size.unwrap_or(0).max(stored);
    if size > FILE_SIZE_MAX {
        let name = pending.name(header);
        return Err(TreeError::Archive(format!("{} is said to have {size} bytes, which no file has", Shown(&name))));
    }
    // Cannot overflow below half of what 64 bits hold.
    let mut body = Body { input, left: stored, padding: stored.next_multiple_of(BLOCK as u64) - stored };
    let item = pending.item(header, &mut body)?;
    if progress.lost.as_ref().is_some_and(|lost| item.path.starts_with(lost)) {
        return body.skip();
    }
    let extents = match &item.kind {
        ItemKind::File { extents } => extents.clone(),
        _ => Vec::new(),
    };
    match target.put(&item, &mut |sink| body.deliver(&extents, sink)) {
        Ok(()) => progress.totals.count(&item),
        Err(error) => {
            progress.failures.take(error)?;
            if item.kind == ItemKind::Directory {
                progress.lost = Some(item.path.clone());
            }
        }
    }
    body.skip()
}

/// The bytes of one item, and what fills them to a block.
struct Body<'a> {
    input: &'a mut dyn Read,
    left: u64,
    padding: u64,
}

impl Body<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), TreeError> {
        if bytes.len() as u64 > self.left {
            return Err(TreeError::Archive("a file is shorter than it says".into()));
        }
        self.input.read_exact(bytes).map_err(truncated)?;
        self.left -= bytes.len() as u64;
        Ok(())
    }

    fn deliver(&mut self, extents: &[(u64, u64)], sink: Sink<'_>) -> Result<(), TreeError> {
        let mut buffer = vec![0; CHUNK];
        for &(mut offset, mut length) in extents {
            while length > 0 {
                let some = &mut buffer[..length.min(CHUNK as u64) as usize];
                self.read(some)?;
                sink(offset, some)?;
                offset += some.len() as u64;
                length -= some.len() as u64;
            }
        }
        Ok(())
    }

    fn skip(self) -> Result<(), TreeError> {
        let rest = self.left + self.padding;
        let skipped = io::copy(&mut self.input.take(rest), &mut io::sink())?;
        if skipped < rest { Err(truncated(io::ErrorKind::UnexpectedEof.into())) } else { Ok(()) }
    }

    /// The map of a sparse file: numbers a line each, filled to a block.
    fn sparse_map(&mut self, size: u64) -> Result<Vec<(u64, u64)>, TreeError> {
        let mut lines = MapLines { body: self, block: [0; BLOCK], at: BLOCK };
        let count = lines.number()?;
        let mut extents: Vec<(u64, u64)> = Vec::new();
        let mut end = 0;
        for _ in 0..count {
            let (offset, length) = (lines.number()?, lines.number()?);
            let past = offset.checked_add(length).filter(|&past| offset >= end && past <= size);
            end = past.ok_or_else(|| TreeError::Archive("the map of a sparse file makes no sense".into()))?;
            if length > 0 {
                extents.push((offset, length));
            }
        }
        Ok(extents)
    }
}

struct MapLines<'a, 'b> {
    body: &'a mut Body<'b>,
    block: [u8; BLOCK],
    at: usize,
}

impl MapLines<'_, '_> {
    fn number(&mut self) -> Result<u64, TreeError> {
        let mut value: u64 = 0;
        loop {
            if self.at == BLOCK {
                self.body.read(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'0'..=b'9' => {
                    value = value
                        .checked_mul(10)
                        .and_then(|value| value.checked_add(u64::from(byte - b'0')))
                        .ok_or_else(|| TreeError::Archive("a number is too large".into()))?;
                }
                b'\n' => return Ok(value),
                _ => return Err(TreeError::Archive("the map of a sparse file is no text".into())),
            }
        }
    }
}

/// What extended headers say about the item after them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Timestamp>,
    sparse_name: Option<Vec<u8>>,
    real_size: Option<u64>,
    xattrs: Xattrs,
    /// ACLs as text, under the names of their xattrs.
    acls: Xattrs,
    /// Bytes read so far.
    bytes: u64,
}

impl Extensions {
    /// Reads one extended header.
    fn read(&mut self, input: &mut dyn Read, header: &Header) -> Result<Vec<u8>, TreeError> {
        let size = header.entry_size().map_err(bad)?;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > EXTENSION_MAX {
            let of = self.path.as_ref().map(|path| format!(" of {}", Shown(path))).unwrap_or_default();
            let text = format!("the extended headers{of} have {} bytes, more than {EXTENSION_MAX}", self.bytes);
            return Err(TreeError::Archive(text));
        }
        let mut bytes = vec![0; size.next_multiple_of(BLOCK as u64) as usize];
        input.read_exact(&mut bytes).map_err(truncated)?;
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    /// What the item after them is called.
    fn name(&self, header: &Header) -> Vec<u8> {
        let name = self.sparse_name.as_ref().or(self.path.as_ref());
        name.cloned().unwrap_or_else(|| header.path_bytes().into_owned())
    }

    fn pax(&mut self, mut bytes: &[u8]) -> Result<(), TreeError> {
        let broken = || TreeError::Archive("a broken extended header".into());
        while !bytes.is_empty() {
            let space = bytes.iter().position(|&b| b == b' ').ok_or_else(broken)?;
            let length = number(&bytes[..space]).ok_or_else(broken)? as usize;
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(broken());
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(broken)?;
            self.record(&record[..equals], &record[equals + 1..]).ok_or_else(broken)?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.realsize" => self.real_size = Some(number(value)?),
            _ => {
                if let Some((xattr, _)) = ACLS.iter().find(|(_, record)| *record == key) {
                    self.acls.push((xattr.to_vec(), value.to_vec()));
                }
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }

    fn item(self, header: &Header, body: &mut Body<'_>) -> Result<Item, TreeError> {
        let path = self.name(header);
        let link = self.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default();
        let device = || -> io::Result<(u32, u32)> {
            Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
        };
        let mut xattrs = self.xattrs;
        for (name, text) in self.acls {
            // The xattr itself says the same, and says it exactly.
            if xattrs.iter().any(|(known, _)| *known == name) {
                continue;
            }
            match from_text(&text) {
                Some(value) => xattrs.push((name, value)),
                None => log::warn!("{}: an ACL that names users by no number is left out", Shown(&path)),
            }
        }
        let mut size = 0;
        let kind = match header.entry_type() {
            // Archives older than ustar mark a directory by the slash behind its name.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => ItemKind::Directory,
            EntryType::Regular | EntryType::Continuous => {
                size = self.real_size.unwrap_or(body.left);
                let extents = match self.real_size {
                    Some(real) => body.sparse_map(real)?,
                    None if size == 0 => Vec::new(),
                    None => vec![(0, size)],
                };
                ItemKind::File { extents }
            }
            EntryType::Directory => ItemKind::Directory,
            EntryType::Symlink => ItemKind::Symlink(link),
            EntryType::Link => ItemKind::HardLink(parts(&link)?),
            EntryType::Fifo => ItemKind::Fifo,
            EntryType::Char => device().map(|(major, minor)| ItemKind::CharDevice(major, minor)).map_err(bad)?,
            EntryType::Block => device().map(|(major, minor)| ItemKind::BlockDevice(major, minor)).map_err(bad)?,
            other => return Err(TreeError::Archive(format!("entries of type {:?} are not known", other.as_byte()))),
        };
        let id = |over: Option<u64>, field: io::Result<u64>| -> Result<u32, TreeError> {
            let id = over.map_or_else(|| field.map_err(bad), Ok)?;
            u32::try_from(id).map_err(|_| TreeError::Archive(format!("{id} is no user or group")))
        };
        Ok(Item {
            path: parts(&path)?,
            kind,
            mode: header.mode().map_err(bad)? & 0o7777,
            uid: id(self.uid, header.uid())?,
            gid: id(self.gid, header.gid())?,
            size,
            mtime: match self.mtime {
                Some(time) => time,
                None => Timestamp::new(header.mtime().map_err(bad)? as i64, 0),
            },
            xattrs,
        })
    }
}

/// The components of a name in an archive. One that climbs out of it is refused.
fn parts(path: &[u8]) -> Result<Vec<Vec<u8>>, TreeError> {
    if path.contains(&0) || path.split(|&b| b == b'/').any(|part| part == b"..") {
        return Err(TreeError::Archive(format!("the name {} leads out of it", Shown(path))));
    }
    Ok(super::resolve::components(path).map(<[u8]>::to_vec).collect())
}

fn verify(header: &Header) -> Result<(), TreeError> {
    // The checksum counts its own field as blanks.
    let bytes = header.as_bytes();
    let sum: u32 =
        bytes.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u32::from(b) }).sum();
    if header.cksum().map_err(bad)? != sum {
        return Err(TreeError::Archive("a header's checksum is wrong".into()));
    }
    Ok(())
}

fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A decimal number of seconds, with any number of digits behind the point.
fn time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    // No second sign; and a number of which the negative can be had.
    let secs = whole.parse::<u64>().ok().and_then(|secs| i64::try_from(secs).ok())?;
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    Some(match (negative, nanos) {
        (false, _) => Timestamp::new(secs, nanos),
        (true, 0) => Timestamp::new(-secs, 0),
        (true, _) => Timestamp::new(-secs - 1, 1_000_000_000 - nanos),
    })
}

fn bad(error: io::Error) -> TreeError {
    TreeError::Archive(error.to_string())
}

fn truncated(error: io::Error) -> TreeError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return TreeError::Archive("it ends in the middle".into());
    }
    TreeError::Stream(error)
}

#[cfg(test)]
mod tests {
    use super::super::archive_write::Writer;
    use super::*;

    #[derive(Default)]
    struct Kept(Vec<(Item, Pieces)>);

    type Pieces = Vec<(u64, Vec<u8>)>;

    impl Target for Kept {
        fn put(
            &mut self,
            item: &Item,
            data: &mut dyn FnMut(Sink<'_>) -> Result<(), TreeError>,
        ) -> Result<(), TreeError> {
            let mut pieces = Vec::new();
            data(&mut |offset, bytes| {
                pieces.push((offset, bytes.to_vec()));
                Ok(())
            })?;
            self.0.push((item.clone(), pieces));
            Ok(())
        }

        fn finish(&mut self) -> Result<(), TreeError> {
            Ok(())
        }
    }

    fn sample(path: &[&[u8]], kind: ItemKind) -> Item {
        Item {
            path: path.iter().map(|part| part.to_vec()).collect(),
            kind,
            mode: 0o4755,
            uid: 4_000_000_000,
            gid: 7,
            size: 0,
            mtime: Timestamp::new(-7, 123_456_789),
            xattrs: vec![(b"user.bin".to_vec(), b"a\nb=\0c\xff".to_vec())],
        }
    }

    #[test]
    fn everything_comes_back_as_it_went_in() {
        let long = vec![b'n'; 255];
        let mut sparse = sample(&[b"holes"], ItemKind::File { extents: vec![(4096, 3), (1 << 40, 5)] });
        sparse.size = 1 << 41;
        let mut plain = sample(&[b"d", b"\xffname\n"], ItemKind::File { extents: vec![(0, 5)] });
        plain.size = 5;
        let items = [
            sample(&[], ItemKind::Directory),
            sample(&[b"d"], ItemKind::Directory),
            plain,
            sparse,
            sample(&[&long, &long, b"l"], ItemKind::Symlink(vec![b'/'; 4000])),
            sample(&[b"hard"], ItemKind::HardLink(vec![b"d".to_vec(), b"\xffname\n".to_vec()])),
            sample(&[b"fifo"], ItemKind::Fifo),
            sample(&[b"null"], ItemKind::CharDevice(1, 3)),
            sample(&[b"empty"], ItemKind::File { extents: vec![] }),
        ];
        let mut stream = Vec::new();
        let mut writer = Writer::new(&mut stream, b".");
        for item in &items {
            writer.begin(item).unwrap();
            if let ItemKind::File { extents } = &item.kind {
                extents.iter().for_each(|&(_, length)| writer.data(&b"abcde"[..length as usize]).unwrap());
            }
            writer.end().unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(stream.len() % BLOCK, 0);
        let mut kept = Kept::default();
        unpack(&mut stream.as_slice(), &mut kept).unwrap();
        assert_eq!(kept.0.iter().map(|(item, _)| item.clone()).collect::<Vec<_>>(), items);
        assert_eq!(kept.0[3].1, [(4096, b"abc".to_vec()), (1 << 40, b"abcde".to_vec())]);

        for end in (0..stream.len() - 1024).step_by(97) {
            let error = unpack(&mut &stream[..end], &mut Kept::default()).unwrap_err();
            assert!(matches!(error, TreeError::Archive(_)), "cut at {end}: {error}");
        }
    }

    /// A header with this name and size, and `pax` records before it.
    fn crafted(records: &[&str], name: &str, kind: EntryType, body: &[u8]) -> Vec<u8> {
        let mut stream = Vec::new();
        let mut push = |name: &str, kind, body: &[u8]| {
            let mut header = Header::new_ustar();
            header.set_entry_type(kind);
            header.set_path(name).unwrap();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(body.len() as u64);
            header.set_cksum();
            stream.extend_from_slice(header.as_bytes());
            stream.extend_from_slice(body);
            stream.resize(stream.len().next_multiple_of(BLOCK), 0);
        };
        for record in records {
            push("pax", EntryType::XHeader, record.as_bytes());
        }
        push(name, kind, body);
        stream.resize(stream.len() + 2 * BLOCK, 0);
        stream
    }

    #[test]
    fn sizes_that_no_file_has_are_refused_and_named() {
        for record in [
            "29 size=18446744073709551615\n",
            "29 size=18446744073709551104\n",
            "28 size=9223372036854775808\n",
            "44 GNU.sparse.realsize=18446744073709551615\n",
        ] {
            assert_eq!(record.split(' ').next().unwrap().parse::<usize>().unwrap(), record.len());
            let stream = crafted(&[record], "some/file", EntryType::Regular, b"x");
            match unpack(&mut stream.as_slice(), &mut Kept::default()).unwrap_err() {
                TreeError::Archive(text) => assert!(text.contains("some/file"), "{record}: {text}"),
                other => panic!("{record}: {other}"),
            }
        }
    }

    #[test]
    fn extended_headers_are_bounded_together() {
        let value = "v".repeat(60_000);
        let rest = format!(" SCHILY.xattr.user.x={value}\n");
        let record = format!("{}{rest}", rest.len() + 5);
        let few = crafted(&vec![record.as_str(); 100], "f", EntryType::Regular, b"");
        unpack(&mut few.as_slice(), &mut Kept::default()).unwrap();
        let many = crafted(&vec![record.as_str(); 300], "f", EntryType::Regular, b"");
        let error = unpack(&mut many.as_slice(), &mut Kept::default()).unwrap_err();
        assert!(matches!(&error, TreeError::Archive(text) if text.contains("extended headers")), "{error}");
    }

    #[test]
    fn times_have_one_sign_and_fit() {
        assert_eq!(time(b"-0.5"), Some(Timestamp::new(-1, 500_000_000)));
        for bad in ["--5", "-9223372036854775808", "99999999999999999999", "", "."] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn names_that_climb_are_refused() {
        for bad in [&b"../x"[..], b"a/../../x", b"a\0b"] {
            assert!(parts(bad).is_err());
        }
        assert_eq!(parts(b"/./a//b/").unwrap(), [b"a".to_vec(), b"b".to_vec()]);
    }
}
