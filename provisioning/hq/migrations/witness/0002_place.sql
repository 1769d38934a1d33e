-- SPDX-License-Identifier: Apache-2.0
-- The file this database was in when it was last opened: a copy put back is another file.

CREATE TABLE witness_place (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    place TEXT NOT NULL
);
