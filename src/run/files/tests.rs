//! Who may take a pid file and a run directory, and what is left afterwards.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// A lock file as a killed process leaves it: there, but nobody holds it.
fn left_behind(dir: &Path) {
    fs::create_dir(dir).unwrap();
    for name in [LOCK, XENSTORE, "console", "console-9"] {
        fs::write(dir.join(name), "").unwrap();
    }
}

#[test]
fn a_pid_file_has_the_number_and_goes_with_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    // longer than any number
    fs::write(&path, "x".repeat(100)).unwrap();
    let file = PidFile::create(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, format!("{}\n", std::process::id()));
    drop(file);
    assert!(!path.exists());
}

#[test]
fn a_pid_file_that_is_held_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let held = PidFile::create(&path).unwrap();
    let e = PidFile::create(&path).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::AddrInUse);
    assert!(path.exists(), "the loser removes nothing");
    assert_ne!(fs::metadata(&path).unwrap().len(), 0, "and empties nothing");
    drop(held);
    PidFile::create(&path).unwrap();
    let e = PidFile::create(&dir.path().join("no/such/place")).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_pid_file_removed_by_others_is_no_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let file = PidFile::create(&path).unwrap();
    fs::remove_file(&path).unwrap();
    drop(file);
}

#[test]
fn a_run_directory_is_private_and_goes_with_its_owner() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("all").join("vm");
    let run = RunDir::create_at(path.clone()).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(run.xenstore(), path.join("xenstored.sock"));
    fs::write(run.xenstore(), "").unwrap();
    run.link_console(0, Path::new("/dev/pts/1")).unwrap();
    // at a reboot the console may be another one
    run.link_console(0, Path::new("/dev/pts/2")).unwrap();
    let link = fs::read_link(path.join("console")).unwrap();
    assert_eq!(link, Path::new("/dev/pts/2"));
    run.link_console(9, Path::new("/dev/pts/3")).unwrap();
    assert!(path.join("console-9").is_symlink());
    drop(run);
    assert!(!path.exists() && path.parent().unwrap().exists());
}

#[test]
fn a_name_is_taken_while_its_process_lives() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("vm");
    let run = RunDir::create_at(path.clone()).unwrap();
    let e = RunDir::create_at(path.clone()).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::AddrInUse);
    assert!(path.join(LOCK).exists(), "the loser removes nothing");
    drop(run);
    RunDir::create_at(path).unwrap();
}

#[test]
fn what_dead_processes_left_is_taken_over_and_swept() {
    let parent = tempfile::tempdir().unwrap();
    let [own, dead, alive, foreign] =
        ["own", "dead", "alive", "foreign"].map(|n| parent.path().join(n));
    left_behind(&own);
    left_behind(&dead);
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("precious"), "").unwrap();
    let other = RunDir::create_at(alive.clone()).unwrap();
    left_behind(&parent.path().join("dead2"));
    let run = RunDir::create_at(own.clone()).unwrap();
    assert!(own.join(LOCK).exists() && !own.join(XENSTORE).exists());
    assert!(!dead.exists() && !parent.path().join("dead2").exists());
    assert!(alive.join(LOCK).exists(), "a live domain's directory stays");
    assert!(
        foreign.join("precious").exists(),
        "what has no lock is not ours"
    );
    drop((run, other));
}

#[test]
fn files_that_are_not_ours_stay() {
    let parent = tempfile::tempdir().unwrap();
    let dead = parent.path().join("dead");
    left_behind(&dead);
    fs::write(dead.join("core"), "").unwrap();
    let run = RunDir::create_at(parent.path().join("vm")).unwrap();
    assert!(dead.join("core").exists());
    drop(run);
}

#[test]
fn starts_at_the_same_time_have_one_winner_each() {
    let parent = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let path = parent.path().join("vm");
        let outcomes: Vec<_> = std::thread::scope(|s| {
            let start = |_| s.spawn(|| RunDir::create_at(path.clone()));
            let threads: Vec<_> = (0..4).map(start).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let won: Vec<_> = outcomes.iter().flatten().collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        assert!(path.join(LOCK).exists(), "the winner has its directory");
        for e in outcomes.iter().filter_map(|o| o.as_ref().err()) {
            assert_eq!(e.kind(), io::ErrorKind::AddrInUse, "{e}");
        }
        drop(outcomes);
        assert!(!path.exists());
    }
}
