//! A store that cannot be read is an error that names the place and the way back: never an empty log under the old id.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path};

use coracle_tests::{cli::coracle, cluster::Cluster, node::Node, wait::eventually};

type Ruin = fn(&Path);

/// Ways in which a disk may have ruined sled's database.
const RUINED: [(&str, Ruin); 4] = [
    ("noise in its middle", |folder| noise(folder, 2)),
    ("noise from its beginning on", |folder| noise(folder, 0)),
    ("noise, and the marks are gone", |folder| {
        noise(folder, 0);
        fs::remove_file(folder.join("marks")).unwrap();
    }),
    ("it is gone", |folder| fs::remove_file(folder.join("db")).unwrap()),
];

/// Overwrites a quarter of what is in use of the database, from a quarter of it on.
fn noise(folder: &Path, from: usize) {
    let path = folder.join("db");
    let mut bytes = fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for (at, byte) in bytes[from * used / 4..(from + 1) * used / 4].iter_mut().enumerate() {
        *byte = (at * 31 + 7) as u8;
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn c01_a_database_that_cannot_be_opened_is_an_error_with_the_way_back() {
    let mut cluster = Cluster::arranged(3, &[], |nodes| nodes.iter_mut().for_each(Node::keep_in_sled));
    for index in 0..20 {
        cluster.cli(&["put", &format!("key-{index}"), "boat"]).expect(0);
    }
    let ruined = cluster.others(cluster.leader())[0];
    let old = cluster.id(ruined);
    cluster.nodes[ruined].signal("TERM");
    assert!(cluster.nodes[ruined].wait().success());
    let data = cluster.nodes[ruined].data.clone();
    let whole = cluster.folder().join("whole");
    fs::rename(&data, &whole).unwrap();
    for (how, ruin) in RUINED {
        copy(&whole, &data);
        ruin(&data);
        // Again and again: it does not mend itself.
        for _ in 0..2 {
            let ended = coracle(cluster.nodes[ruined].arguments());
            assert_eq!(ended.code, Some(65), "{how}: {ended:#?}");
            ended.says(&[&data.display().to_string(), "coracle leave", "--join", "Do not delete"]);
        }
        fs::remove_dir_all(&data).unwrap();
    }
    // The way back, as it was named.
    cluster.cli(&["leave", &old]).expect(0);
    let others = cluster.others(ruined);
    let addresses = cluster.addresses(&others);
    let node = &mut cluster.nodes[ruined];
    node.peers.clear();
    node.extra.extend(["--join".to_owned(), addresses]);
    node.start();
    node.ready();
    assert_ne!(cluster.id(ruined), old);
    cluster.has_voters(&[0, 1, 2]);
    eventually("it has what was written before", || {
        let found = cluster.cli_at(ruined, &["get", "--stale", "key-19"]);
        if found.stdout == "boat\n" { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(|file| file.unwrap().path()) {
        let target = to.join(file.file_name().unwrap());
        if file.is_dir() {
            copy(&file, &target);
        } else {
            fs::copy(&file, target).unwrap();
        }
    }
}
