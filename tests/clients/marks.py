"""Content Credentials of pictures: signed by dj-flux2 and dj-flux2-c2pa, validated by c2pa-python.

    marks.py PROGRAM FOLDER

In:  the program `dj-flux2`, and the folder of `dj-flux2-c2pa`. Run by .ci/marks.
"""

import datetime
import io
import json
import pathlib
import subprocess
import sys
import tempfile

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

NOW = datetime.datetime.now(datetime.timezone.utc)
DRAWN = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


def name(common):
    parts = [(NameOID.COUNTRY_NAME, "XX"), (NameOID.ORGANIZATION_NAME, "Test"), (NameOID.COMMON_NAME, common)]
    return x509.Name([x509.NameAttribute(*part) for part in parts])


def certificate(subject, key, issuer, issuer_key, usage):
    is_ca = usage is None
    usages = dict.fromkeys(["content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                            "encipher_only", "decipher_only"], False)
    builder = x509.CertificateBuilder(
        issuer_name=issuer, subject_name=subject, public_key=key.public_key(), serial_number=x509.random_serial_number(),
        not_valid_before=NOW - datetime.timedelta(days=1), not_valid_after=NOW + datetime.timedelta(days=365),
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), True)
    signing = x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **usages)
    builder = builder.add_extension(signing, True)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return builder.add_extension(issued_by, False).sign(issuer_key, hashes.SHA256())


# Every kind of key that docs/guide/marks.md names.
KINDS = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "es512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
}


def write_keys(folder, kind, usage=ExtendedKeyUsageOID.EMAIL_PROTECTION):
    root_key = ec.generate_private_key(ec.SECP256R1())
    key = KINDS[kind]()
    root = certificate(name("root"), root_key, name("root"), root_key, None)
    leaf = certificate(name("signer"), key, root.subject, root_key, usage)
    pem = serialization.Encoding.PEM
    (folder / "chain.pem").write_bytes(leaf.public_bytes(pem) + root.public_bytes(pem))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))


def report(path):
    kinds = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
    found = json.loads(c2pa.Reader(kinds[path.suffix], io.BytesIO(path.read_bytes())).json())
    return found, found["manifests"][found["active_manifest"]]


def main():
    program, extras = (pathlib.Path(arg).resolve() for arg in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        environment = {"PATH": f"{extras}:/usr/bin:/bin", "HOME": temporary}

        def run(*args):
            command = [program, *args]
            return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

        def draw(out, *args):
            keys = ["--c2pa-key", "key.pem", "--c2pa-cert", "chain.pem"]
            done = run("a cat on a blue background", "-m", "klein-mini", "-S", "7", "-s", "2", "-o", out, *keys, *args)
            assert done.returncode == 0, done.stderr
            return done

        for kind in KINDS:
            write_keys(folder, kind)
            for extension in ("png", "jpg", "webp") if kind == "es256" else ("png",):
                draw(f"x.{extension}")
                found, manifest = report(folder / f"x.{extension}")
                assert found["validation_state"] == "Valid", found
                codes = [status["code"] for status in found["validation_status"]]
                assert codes == ["signingCredential.untrusted"], codes
                action = manifest["assertions"][0]["data"]["actions"][0]
                assert action["action"] == "c2pa.created" and action["digitalSourceType"] == DRAWN, action
                assert action["softwareAgent"]["name"] == "klein-mini", action
                said = run("info", f"x.{extension}").stdout
                assert "(C2PA), valid, by a certificate that is not known to be trusted; signed by signer" in said, said
        # A reference keeps its own credentials.
        done = draw("edit.png", "-i", "x.png", "--size", "128x128")
        assert "warning: reference" not in done.stderr, done.stderr
        found, manifest = report(folder / "edit.png")
        assert found["validation_state"] == "Valid" and len(found["manifests"]) == 2, found
        (ingredient,) = manifest["ingredients"]
        assert ingredient["relationship"] == "inputTo" and ingredient["active_manifest"], ingredient
        # What is painted into is the parent.
        mask = Image.new("L", (128, 128), 0)
        mask.paste(255, (0, 0, 64, 128))
        mask.save(folder / "mask.png")
        draw("painted.png", "--source", "x.png", "--mask", "mask.png")
        found, manifest = report(folder / "painted.png")
        assert found["validation_state"] == "Valid" and len(found["manifests"]) == 2, found
        opened, edited = manifest["assertions"][0]["data"]["actions"]
        assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited"), manifest
        assert edited["digitalSourceType"] == COMPOSITE, edited
        (ingredient,) = manifest["ingredients"]
        assert ingredient["relationship"] == "parentOf" and ingredient["active_manifest"], ingredient
        # A changed pixel shows.
        picture = Image.open(folder / "x.png").convert("RGB")
        data = bytearray((folder / "x.png").read_bytes())
        at = data.index(b"IDAT") + 20
        data[at] ^= 1
        (folder / "changed.png").write_bytes(data)
        assert "Content Credentials (C2PA), not valid" in run("info", "changed.png").stdout
        assert picture.size == (128, 128)
        # A certificate that may not sign is found before the work.
        write_keys(folder, "es256", ExtendedKeyUsageOID.SERVER_AUTH)
        done = run("a cat", "-m", "klein-mini", "-o", "no.png", "--c2pa-key", "key.pem", "--c2pa-cert", "chain.pem")
        assert done.returncode != 0 and "the Content Credentials cannot be made" in done.stderr, done.stderr
        assert not (folder / "no.png").exists()
    print(f"Content Credentials: valid in 3 formats and by {len(KINDS)} kinds of keys, kept of references and of sources,"
          " invalid once changed")


if __name__ == "__main__":
    sys.exit(main())
