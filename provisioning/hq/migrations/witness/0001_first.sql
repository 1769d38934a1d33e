-- SPDX-License-Identifier: Apache-2.0
-- The witness keeps its own file: every commit reaches the disk before an answer leaves.

CREATE TABLE witness (
    site TEXT PRIMARY KEY,
    state TEXT NOT NULL
);

-- Append-only: every swap that changed a record.
CREATE TABLE witness_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    site TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    request TEXT NOT NULL,
    record TEXT NOT NULL
);
