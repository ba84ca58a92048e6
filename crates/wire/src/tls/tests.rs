use super::*;

/// A certificate and its key, made in `folder`.
fn certificate(folder: &Path, name: &str) -> TlsFiles {
    let (certificate, key) = herdsman_testkit::self_signed(folder, name, &format!("/O=Hunt/CN={name}"), "");
    TlsFiles { certificate, key, ..TlsFiles::default() }
}

fn refusal(files: TlsFiles) -> String {
    Tls::open(files).unwrap_err().to_string()
}

#[test]
fn files_that_are_missing_bad_or_of_another_certificate_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (one, two) = (certificate(folder.path(), "one"), certificate(folder.path(), "two"));
    let open = |certificate: &Path, key: &Path| {
        refusal(TlsFiles { certificate: certificate.into(), key: key.into(), ..TlsFiles::default() })
    };
    assert_eq!(
        open(&at("none.pem"), &one.key),
        format!("cannot read certificate {}: no such file", at("none.pem").display())
    );
    assert_eq!(
        open(&one.certificate, &at("none.key")),
        format!("cannot read private key {}: no such file", at("none.key").display())
    );
    assert_eq!(open(&one.key, &one.key), format!("{} holds no certificate in PEM form", one.key.display()));
    assert_eq!(
        open(&one.certificate, &one.certificate),
        format!("{} holds no private key in PEM form", one.certificate.display())
    );
    assert_eq!(
        open(&one.certificate, &two.key),
        format!(
            "key {} does not belong to certificate {}: give the key the certificate was made with",
            two.key.display(),
            one.certificate.display()
        )
    );
    let asked = TlsFiles { client_auth: ClientAuth::Required, ..one };
    assert!(refusal(asked.clone()).contains("set client_ca"), "an authority is needed");
    assert!(Tls::open(TlsFiles { client_ca: Some(two.certificate), ..asked }).unwrap().knows_clients());
}

#[test]
fn a_certificate_that_is_replaced_is_taken_up_and_half_a_replacement_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let files = certificate(folder.path(), "one");
    let two = certificate(folder.path(), "two");
    let tls = Tls::open(files.clone()).unwrap();
    let first = tls.config();
    assert!(Arc::ptr_eq(&first, &tls.config()), "nothing has changed");
    let look = || {
        let mut current = tls.current.lock().unwrap();
        current.looked = current.looked.checked_sub(LOOK_PERIOD).unwrap();
        current.changed.clear();
        drop(current);
        tls.config()
    };
    std::fs::copy(&two.key, &files.key).unwrap();
    assert!(Arc::ptr_eq(&first, &look()), "the new key does not fit the old certificate");
    std::fs::copy(&two.certificate, &files.certificate).unwrap();
    assert!(!Arc::ptr_eq(&first, &look()), "now both are new");
}
