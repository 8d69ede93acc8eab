-- The first schema. One text for SQLite and PostgreSQL; only these differ:
--   ${SERIAL}  a 64-bit integer that rises with every row, the primary key
--   ${BLOB}    bytes
--   ${TEXT}    text compared byte by byte
-- Times are microseconds since 1970 UTC in a BIGINT; NULL where there is none.

-- +goose Up

CREATE TABLE actions (
    seq              ${SERIAL},
    id               ${TEXT}  NOT NULL UNIQUE,
    type             ${TEXT}  NOT NULL,
    status           ${TEXT}  NOT NULL,
    machine_id       ${TEXT}  NOT NULL,
    machine_name     ${TEXT}  NOT NULL,
    requestor        ${TEXT}  NOT NULL,
    requestor_kind   ${TEXT}  NOT NULL,
    requestor_id     ${TEXT}  NOT NULL,
    comment          ${TEXT}  NOT NULL,
    created          BIGINT   NOT NULL,
    updated          BIGINT   NOT NULL,
    expires          BIGINT   NOT NULL,
    canceller        ${TEXT}  NOT NULL,
    canceller_kind   ${TEXT}  NOT NULL,
    canceller_id     ${TEXT}  NOT NULL,
    cancel_comment   ${TEXT}  NOT NULL,
    cancel_requested BIGINT,
    error_hresult    BIGINT   NOT NULL,
    troubleshoot     ${TEXT}  NOT NULL,
    external_id      ${TEXT}  NOT NULL,
    source           ${TEXT}  NOT NULL,
    sha1             ${TEXT}  NOT NULL, -- hex, '' when not known
    sha256           ${TEXT}  NOT NULL,
    item             ${TEXT}  NOT NULL,
    active_key       ${TEXT}  NOT NULL, -- machine, type and what it is about
    acknowledged     BOOLEAN  NOT NULL,
    -- Last in the row: a scan for a list does not read through them.
    signed_order     ${BLOB},
    cancel_order     ${BLOB},
    receipt          ${BLOB}
);

-- At most one active action per key, whichever replica takes the request.
CREATE UNIQUE INDEX actions_active ON actions (active_key) WHERE status IN ('Pending', 'InProgress');

-- The outbox: what the devices have not acknowledged. It is as small as the work
-- that is open, however many actions there are.
CREATE INDEX actions_outbox         ON actions (seq)             WHERE NOT acknowledged;
CREATE INDEX actions_outbox_machine ON actions (machine_id, seq) WHERE NOT acknowledged;

-- NOT IN, so that SQLite does not take the index on status for it.
CREATE INDEX actions_expiry ON actions (expires) WHERE status NOT IN ('Succeeded', 'Failed', 'TimeOut', 'Cancelled');

-- Lists: newest first among equals. lower() where they compare without regard to case.
CREATE INDEX actions_status    ON actions (status, seq);
CREATE INDEX actions_machine   ON actions (lower(machine_id), seq);
CREATE INDEX actions_requestor ON actions (lower(requestor), seq);
CREATE INDEX actions_created   ON actions (created, seq);
CREATE INDEX actions_updated   ON actions (updated, seq);

CREATE TABLE devices (
    seq           ${SERIAL},
    id            ${TEXT}  NOT NULL UNIQUE,
    name          ${TEXT}  NOT NULL,
    label         ${TEXT}  NOT NULL, -- the first label of name
    device_key    ${BLOB}  NOT NULL,
    first_seen    BIGINT   NOT NULL,
    last_seen     BIGINT   NOT NULL,
    last_ip       ${TEXT}  NOT NULL, -- where its link comes from
    value         ${TEXT}  NOT NULL,
    group_id      BIGINT   NOT NULL,
    group_name    ${TEXT}  NOT NULL,
    revoked       BIGINT,
    os_platform   ${TEXT}  NOT NULL, -- this and the next four: as the API shows them, to be filtered on
    os_version    ${TEXT}  NOT NULL,
    architecture  ${TEXT}  NOT NULL,
    agent_version ${TEXT}  NOT NULL,
    internal_ip   ${TEXT}  NOT NULL,
    tags          ${TEXT}  NOT NULL, -- JSON; device_tags is its index
    facts         ${TEXT}  NOT NULL  -- JSON
);
CREATE INDEX devices_name  ON devices (lower(name));
CREATE INDEX devices_label ON devices (lower(label));
CREATE INDEX devices_seen  ON devices (last_seen, seq);

CREATE TABLE device_tags (
    device ${TEXT} NOT NULL REFERENCES devices (id),
    tag    ${TEXT} NOT NULL,
    PRIMARY KEY (device, tag)
);
CREATE INDEX device_tags_tag ON device_tags (tag, device);

CREATE TABLE enroll_tokens (
    id      ${TEXT} NOT NULL PRIMARY KEY,
    secret  ${BLOB} NOT NULL UNIQUE, -- SHA-256 of it
    uses    BIGINT  NOT NULL,
    expires BIGINT  NOT NULL,
    tags    ${TEXT} NOT NULL -- JSON
);

-- What lies in the devices' vaults.
CREATE TABLE items (
    id         ${TEXT} NOT NULL PRIMARY KEY,
    machine_id ${TEXT} NOT NULL,
    order_id   ${TEXT} NOT NULL,
    sha1       ${TEXT} NOT NULL,
    sha256     ${TEXT} NOT NULL,
    size       BIGINT  NOT NULL,
    paths      ${TEXT} NOT NULL, -- JSON
    uid        BIGINT  NOT NULL,
    gid        BIGINT  NOT NULL,
    mode       BIGINT  NOT NULL,
    sealed     BIGINT  NOT NULL,
    state      ${TEXT} NOT NULL,
    comment    ${TEXT} NOT NULL
);
CREATE INDEX items_sealed  ON items (sealed, id);
CREATE INDEX items_machine ON items (machine_id, sealed, id);
CREATE INDEX items_order   ON items (order_id, sealed, id);
CREATE INDEX items_sha1    ON items (sha1, sealed, id);
CREATE INDEX items_sha256  ON items (sha256, sealed, id);

CREATE TABLE apps (
    seq         ${SERIAL},
    id          ${TEXT}  NOT NULL UNIQUE,
    name        ${TEXT}  NOT NULL,
    permissions ${TEXT}  NOT NULL, -- JSON
    secrets     ${TEXT}  NOT NULL, -- JSON: id, SHA-256, expiry
    created     BIGINT   NOT NULL,
    disabled    BOOLEAN  NOT NULL
);

CREATE TABLE settings (
    name  ${TEXT} NOT NULL PRIMARY KEY,
    value ${TEXT} NOT NULL
);

-- The audit log: docs/audit.md.
CREATE TABLE audit_lines (
    line   BIGINT  NOT NULL PRIMARY KEY, -- from 0, without gaps
    leaf   ${TEXT} NOT NULL,
    hashes ${BLOB} NOT NULL -- those that this line completes, 32 bytes each
);
CREATE TABLE audit_checkpoints (
    lines BIGINT  NOT NULL PRIMARY KEY,
    note  ${TEXT} NOT NULL -- signed
);

-- +goose Down

DROP TABLE audit_checkpoints;
DROP TABLE audit_lines;
DROP TABLE settings;
DROP TABLE apps;
DROP TABLE items;
DROP TABLE enroll_tokens;
DROP TABLE device_tags;
DROP TABLE devices;
DROP TABLE actions;
