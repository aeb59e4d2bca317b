//! What is committed comes back, and the digest says the same however it got there.

use sessionfs::base::limits::BLOCK_SIZE;
use sessionfs::base::{DataId, FileKind, Ino};
use sessionfs::format::Digest;

use crate::session::{Session, bytes, name};

/// A little of everything; `commit` is called after every step.
fn busy(session: &mut Session, commit: &mut dyn FnMut(&mut Session)) {
    let root = Ino::ROOT;
    let sub = session.dir(root, "sub");
    let (a, b) = (session.file(root, "a"), session.file(sub, "b"));
    commit(session);
    for index in 0..5 {
        session.write(a, index, &bytes(index, BLOCK_SIZE));
    }
    session.write(b, 3, &bytes(77, 10_000));
    session.xattr(b, "user.colour", Some(b"red"), None);
    commit(session);
    session.share((a, 1), (b, 9));
    session.write(a, 1, &bytes(100, 10_000));
    session.allocate(b, 12);
    commit(session);
    session.truncate(a, 3);
    session.xattr(b, "user.colour", Some(b"green"), Some(3));
    session.xattr(b, "user.gone", Some(b"x"), None);
    session.symlink(sub, "to-a", "../a");
    commit(session);
    session.write(a, 3, &[0; BLOCK_SIZE]);
    session.xattr(b, "user.gone", None, Some(1));
    session.link(b, root, "b-again");
    commit(session);
    let tmp = session.tmpfile();
    session.write(tmp, 0, &bytes(5, 5_000));
    session.xattr(tmp, "user.tmp", Some(b"1"), None);
    commit(session);
    session.link(tmp, root, "tmp");
    commit(session);
    session.unlink(sub, "b");
    session.unlink(root, "a");
    commit(session);
    session.write(a, 0, &bytes(9, 100));
    commit(session);
    session.forget(a);
    commit(session);
}

#[test]
fn everything_comes_back() {
    let mut session = Session::new();
    busy(&mut session, &mut |session| {
        session.commit();
        session.assert_clean();
    });
    let all = session.everything();
    assert_eq!(all.names.len(), 4);
    assert_eq!(all.xattrs.len(), 2);
    let (block, content) = all.blocks.iter().find(|(row, _)| row.index == 9).unwrap();
    assert!(block.shared && content == &bytes(1, BLOCK_SIZE), "the copy outlives what it was copied from");
    let session = session.reopen();
    assert_eq!(session.everything(), all);
    let names = session.store.directory(Ino::ROOT).unwrap();
    let cookies: Vec<_> = names.iter().map(|(dentry, _)| dentry.cookie).collect();
    assert!(cookies.is_sorted() && cookies.len() == 3);
}

#[test]
fn small_commits_and_one_big_one_end_in_the_same_digest_and_counts() {
    let (mut small, mut big) = (Session::new(), Session::new());
    busy(&mut small, &mut |session| {
        session.commit();
    });
    busy(&mut big, &mut |_| {});
    let (small_end, big_end) = (small.commit(), big.commit());
    small.assert_clean();
    big.assert_clean();
    assert_eq!(small_end.digest, big_end.digest);
    assert_eq!(small_end.counts, big_end.counts);
    assert!(small_end.txid > big_end.txid);
    assert_eq!(recomputed(&small), small_end.digest);
    assert_eq!(small_end.counts.files, 2);
    assert_eq!(small_end.counts.dirs, 2);
}

/// The digest of what readers see, added up from nothing.
fn recomputed(session: &Session) -> Digest {
    let all = session.everything();
    let mut digest = Digest::default();
    let orphans: Vec<_> = all.inodes.iter().filter(|row| row.is_orphan()).map(|row| row.ino).collect();
    all.inodes.iter().filter(|row| !row.is_orphan()).for_each(|row| digest.add_inode(row));
    all.names.iter().for_each(|row| digest.add_dentry(row));
    for (row, content) in all.blocks.iter().filter(|(row, _)| !orphans.contains(&row.ino)) {
        digest.add_block(row, sessionfs::format::content_hash(content));
    }
    for (ino, name, value) in all.xattrs.iter().filter(|(ino, ..)| !orphans.contains(ino)) {
        digest.add_xattr(*ino, name, value);
    }
    digest
}

#[test]
fn orphans_are_counted_but_in_no_digest() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    session.write(file, 0, &bytes(1, 8_192));
    session.xattr(file, "user.a", Some(b"b"), None);
    let named = session.commit();
    session.unlink(Ino::ROOT, "file");
    let orphan = session.commit();
    assert_eq!(recomputed(&session), orphan.digest);
    session.assert_clean();
    assert_eq!((orphan.counts.inodes, orphan.counts.files, orphan.counts.bytes), (2, 0, 0));
    assert_eq!(orphan.counts.pieces, 2);

    // Written to while nobody can see it, then named again.
    session.write(file, 1, &bytes(2, 100));
    session.write(file, 0, &bytes(3, 100));
    assert_eq!(session.commit().digest, orphan.digest);
    session.link(file, Ino::ROOT, "back");
    let back = session.commit();
    assert_eq!(recomputed(&session), back.digest);
    assert_eq!(back.counts.files, named.counts.files);

    session.unlink(Ino::ROOT, "back");
    session.commit();
    let mut session = session.reopen();
    assert_eq!(session.writer.reap_orphans().unwrap(), 1);
    assert_eq!(session.writer.reap_orphans().unwrap(), 0);
    let end = session.store.superblock().unwrap();
    assert_eq!((end.counts.inodes, end.counts.pieces), (1, 0));
    assert_eq!(recomputed(&session), end.digest);
    assert_eq!(session.store.inode(file).unwrap(), None);
    assert!(session.store.blocks(file).unwrap().is_empty());
}

#[test]
fn content_lives_as_long_as_a_block_names_it() {
    let mut session = Session::new();
    let (a, b) = (session.file(Ino::ROOT, "a"), session.file(Ino::ROOT, "b"));
    let first = session.write(a, 0, &bytes(1, BLOCK_SIZE));
    session.commit();
    // Committed unshared, then moved to another file within one transaction.
    session.share((a, 0), (b, 0));
    session.truncate(a, 0);
    session.commit();
    assert_eq!(&*session.store.data(first).unwrap().unwrap(), &bytes(1, BLOCK_SIZE)[..]);
    session.share((b, 0), (a, 5));
    session.commit();
    session.truncate(b, 0);
    session.commit();
    assert!(session.store.data(first).unwrap().is_some(), "a still names it");
    session.assert_clean();
    session.truncate(a, 0);
    session.commit();
    assert!(session.store.data(first).unwrap().is_none(), "nobody names it");
    assert!(session.store.data(DataId::ZEROS).unwrap().unwrap().is_empty());
    assert!(session.store.data(DataId(999)).unwrap().is_none());
}

#[test]
fn content_dropped_before_its_commit_is_never_stored() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    let ids: Vec<_> = (0..4).map(|seed| session.write(file, 0, &bytes(seed, BLOCK_SIZE))).collect();
    session.commit();
    for id in &ids[..3] {
        assert!(session.store.data(*id).unwrap().is_none());
    }
    assert!(session.store.data(ids[3]).unwrap().is_some());
}

#[test]
fn an_empty_transaction_commits_nothing() {
    let mut session = Session::new();
    let before = session.commit();
    assert_eq!(session.commit(), before);
}

#[test]
fn a_failed_commit_changes_nothing() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    session.write(file, 0, &bytes(1, 1_000));
    session.commit();
    let (before, all) = (session.store.superblock().unwrap(), session.everything());
    let lost = session.write(file, 0, &bytes(2, 1_000));
    session.file(Ino::ROOT, "other");
    session.txn.data.remove(&lost);
    let error = session.try_commit().unwrap_err();
    assert!(error.to_string().contains("names data 2, which is missing"), "{error}");
    assert_eq!(session.store.superblock().unwrap(), before);
    assert_eq!(session.everything(), all);
}

#[test]
fn kinds_and_names_of_all_sorts() {
    let mut session = Session::new();
    let odd: Box<[u8]> = (1..=255u8).filter(|byte| *byte != b'/').collect();
    let link = session.symlink(Ino::ROOT, "link", &"t".repeat(4_095));
    session.xattr(link, "trusted.big", Some(&vec![9; 65_536]), None);
    session.dir(Ino::ROOT, "deep");
    session.commit();
    let row = session.store.inode(link).unwrap().unwrap();
    assert_eq!(row.kind(), FileKind::Symlink);
    assert_eq!(row.target.len(), 4_095);
    assert_eq!(session.store.xattrs(link).unwrap(), [(name("trusted.big"), vec![9; 65_536].into())]);
    assert_eq!(odd.len(), 254);
}
