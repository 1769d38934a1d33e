-- SPDX-License-Identifier: Apache-2.0
-- Witnesses on site enrol with a claim code. Servers are told of a box whose key is known, no other.

ALTER TABLE witness_boxes ADD COLUMN key_spki TEXT NOT NULL DEFAULT '';

-- One open or used code a site; the box in service stays until another one has used it.
CREATE TABLE witness_box_claims (
    site TEXT PRIMARY KEY REFERENCES sites (name),
    address TEXT NOT NULL,
    claim_id TEXT NOT NULL UNIQUE,
    code_hash TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    tries BIGINT NOT NULL DEFAULT 0,
    used_by TEXT
);
