-- SPDX-License-Identifier: Apache-2.0
-- Witnesses on site: where each listens. Its key is not kept here.

CREATE TABLE witness_boxes (
    site TEXT PRIMARY KEY REFERENCES sites (name),
    address TEXT NOT NULL
);
