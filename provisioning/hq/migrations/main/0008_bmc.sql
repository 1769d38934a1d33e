-- SPDX-License-Identifier: Apache-2.0
-- How each server's BMC is reached; given to the other server of its pair alone.

CREATE TABLE bmcs (
    site TEXT NOT NULL REFERENCES sites (name),
    slot TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (site, slot)
);
