"""Conda packages as JSON and as py-rattler's records. Imported by the helper processes that have py-rattler, and by nothing else."""

from __future__ import annotations

from typing import Any

from rattler import PackageRecord, RepoDataRecord
from rattler.package import BuildString, NoArchType


def to_json(record: Any) -> dict[str, Any]:
    """What has to be known of a solved package to install it: its place, its hashes, what it depends on."""
    noarch = record.noarch
    return {
        "name": record.name.normalized,
        "version": str(record.version),
        "build": str(record.build),
        "build_number": record.build_number,
        "subdir": str(record.subdir),
        "noarch": "python" if noarch.python else "generic" if noarch.generic else None,
        "depends": list(record.depends),
        "constrains": list(record.constrains),
        "sha256": record.sha256.hex() if record.sha256 else "",
        "md5": record.md5.hex() if record.md5 else "",
        "size": record.size,
        "site_packages": record.python_site_packages_path,
        "license": record.license,
        "file_name": record.file_name,
        "url": record.url,
        "channel": record.channel,
    }


def from_json(value: dict[str, Any], url: str | None = None) -> Any:
    """The record that `to_json` described, to be taken from `url` if one is given."""
    record = PackageRecord(
        value["name"],
        value["version"],
        BuildString.new_unchecked(value["build"]),
        value["build_number"],
        value["subdir"],
        noarch=NoArchType(value["noarch"]),
        depends=value["depends"],
        constrains=value["constrains"],
        sha256=bytes.fromhex(value["sha256"]) if value["sha256"] else None,
        md5=bytes.fromhex(value["md5"]) if value["md5"] else None,
        size=value["size"],
        license=value["license"],
        python_site_packages_path=value["site_packages"],
    )
    return RepoDataRecord(record, value["file_name"], url or value["url"], value["channel"] or "")
