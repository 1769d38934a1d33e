-- SPDX-License-Identifier: Apache-2.0
-- Times are milliseconds since 1970 unless the name ends in _s. JSON is TEXT.

CREATE TABLE blueprints (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    updated_ms BIGINT NOT NULL
);

CREATE TABLE sites (
    name TEXT PRIMARY KEY,
    blueprint TEXT NOT NULL REFERENCES blueprints (name),
    variables TEXT NOT NULL,
    revision BIGINT NOT NULL,
    replication_secret TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);

CREATE TABLE claims (
    id INTEGER PRIMARY KEY,
    claim_id TEXT NOT NULL,
    site TEXT NOT NULL REFERENCES sites (name),
    slot TEXT NOT NULL,
    code_hash TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    tries BIGINT NOT NULL DEFAULT 0,
    state TEXT NOT NULL,
    used_by TEXT
);
CREATE INDEX claims_by_public_id ON claims (claim_id);

-- Boxes that asked for a voucher and are not enrolled yet. Bounded.
CREATE TABLE applicants (
    key_hash TEXT PRIMARY KEY,
    device_id TEXT NOT NULL,
    serial TEXT NOT NULL,
    spki BLOB NOT NULL,
    facts TEXT NOT NULL,
    claim BIGINT REFERENCES claims (id),
    source TEXT NOT NULL,
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL
);

CREATE TABLE devices (
    device_id TEXT PRIMARY KEY,
    site TEXT NOT NULL REFERENCES sites (name),
    slot TEXT NOT NULL,
    serial TEXT NOT NULL,
    key_hash TEXT NOT NULL UNIQUE,
    spki BLOB NOT NULL,
    state TEXT NOT NULL,
    wg_public_key TEXT NOT NULL DEFAULT '',
    lan_addresses TEXT NOT NULL DEFAULT '[]',
    enrolled_ms BIGINT NOT NULL,
    cert_not_after_s BIGINT NOT NULL,
    last_seen_ms BIGINT,
    status TEXT
);
CREATE UNIQUE INDEX devices_one_per_slot ON devices (site, slot) WHERE state = 'active';

-- Agent boots seen, so that late reports of an older boot are dropped.
CREATE TABLE boots (
    device_id TEXT NOT NULL REFERENCES devices (device_id),
    boot TEXT NOT NULL,
    seq TEXT NOT NULL,
    first_ms BIGINT NOT NULL,
    PRIMARY KEY (device_id, boot)
);

-- Numbers given once and never again within a site.
CREATE TABLE volumes (
    site TEXT NOT NULL REFERENCES sites (name),
    vm TEXT NOT NULL,
    disk TEXT NOT NULL,
    number BIGINT NOT NULL,
    PRIMARY KEY (site, vm, disk),
    UNIQUE (site, number)
);

CREATE TABLE vm_indexes (
    site TEXT NOT NULL REFERENCES sites (name),
    vm TEXT NOT NULL,
    idx BIGINT NOT NULL,
    PRIMARY KEY (site, vm),
    UNIQUE (site, idx)
);

-- A version that is published no more stays: sites that run it go on running it.
CREATE TABLE templates (
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    body TEXT NOT NULL,
    published BIGINT NOT NULL,
    published_ms BIGINT NOT NULL,
    PRIMARY KEY (name, version)
);

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    site TEXT,
    slot TEXT,
    received_ms BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    code TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX events_by_site ON events (site, id);

-- One row for each write of an operator.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms BIGINT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
);
