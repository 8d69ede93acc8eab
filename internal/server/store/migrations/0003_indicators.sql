-- Indicators, what devices have met, alerts, and which addresses devices had.

-- +goose Up

CREATE TABLE indicators (
    seq            ${SERIAL}, -- the API's id
    subject        ${TEXT}  NOT NULL UNIQUE, -- SHA-256 of type, value and scope
    type           ${TEXT}  NOT NULL,
    value          ${TEXT}  NOT NULL, -- as compared: hashes and names in lower case
    shown          ${TEXT}  NOT NULL, -- as the client wrote it
    scope          ${TEXT}  NOT NULL, -- names of the device groups in lower case, sorted, a line each; '': all devices
    limited_to     ${TEXT}  NOT NULL, -- the device groups in JSON
    action         ${TEXT}  NOT NULL,
    severity       ${TEXT}  NOT NULL,
    title          ${TEXT}  NOT NULL,
    description    ${TEXT}  NOT NULL,
    recommended    ${TEXT}  NOT NULL,
    application    ${TEXT}  NOT NULL,
    educate_url    ${TEXT}  NOT NULL,
    external_id    ${TEXT}  NOT NULL,
    generate_alert BOOLEAN  NOT NULL,
    expires        BIGINT   NOT NULL, -- 0: never
    created        BIGINT   NOT NULL,
    updated        BIGINT   NOT NULL,
    created_by     ${TEXT}  NOT NULL,
    creator        ${TEXT}  NOT NULL,
    creator_kind   ${TEXT}  NOT NULL,
    updated_by     ${TEXT}  NOT NULL,
    source         ${TEXT}  NOT NULL
);
CREATE INDEX indicators_value   ON indicators (lower(shown));
CREATE INDEX indicators_creator ON indicators (created_by, seq);
CREATE INDEX indicators_expires ON indicators (expires) WHERE expires > 0;

CREATE TABLE indicator_groups (
    indicator BIGINT  NOT NULL REFERENCES indicators (seq) ON DELETE CASCADE,
    name      ${TEXT} NOT NULL,
    group_id  ${TEXT} NOT NULL, -- '' where it is not known
    PRIMARY KEY (indicator, name)
);

-- One row: the version of the whole set, in microseconds since 1970 or one more
-- than before, so that it rises also over a restored backup.
CREATE TABLE indicator_state (
    one     BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL
);
INSERT INTO indicator_state (one, version) VALUES (1, 0);

-- One row for each device and file: what the devices have met.
CREATE TABLE sightings (
    device     ${TEXT} NOT NULL,
    sha256     ${TEXT} NOT NULL,
    sha1       ${TEXT} NOT NULL,
    size       BIGINT  NOT NULL,
    path       ${TEXT} NOT NULL, -- where it was last met
    name       ${TEXT} NOT NULL, -- the last part of path
    first_seen BIGINT  NOT NULL,
    last_seen  BIGINT  NOT NULL,
    executed   BIGINT  NOT NULL, -- last time it ran or tried to; 0: never
    PRIMARY KEY (device, sha256)
);
CREATE INDEX sightings_sha256 ON sightings (sha256, last_seen);
CREATE INDEX sightings_sha1   ON sightings (sha1, last_seen);
CREATE INDEX sightings_old    ON sightings (device, last_seen);

CREATE TABLE alerts (
    seq            ${SERIAL},
    id             ${TEXT} NOT NULL UNIQUE,
    subject        ${TEXT} NOT NULL, -- device and indicator: one open alert for each
    title          ${TEXT} NOT NULL,
    description    ${TEXT} NOT NULL,
    severity       ${TEXT} NOT NULL,
    status         ${TEXT} NOT NULL,
    category       ${TEXT} NOT NULL,
    classification ${TEXT} NOT NULL,
    determination  ${TEXT} NOT NULL,
    assigned_to    ${TEXT} NOT NULL,
    created        BIGINT  NOT NULL,
    first_event    BIGINT  NOT NULL,
    last_event     BIGINT  NOT NULL,
    updated        BIGINT  NOT NULL,
    resolved       BIGINT,
    machine_id     ${TEXT} NOT NULL,
    machine_name   ${TEXT} NOT NULL,
    indicator      ${TEXT} NOT NULL,
    sha1           ${TEXT} NOT NULL,
    sha256         ${TEXT} NOT NULL,
    path           ${TEXT} NOT NULL,
    events         BIGINT  NOT NULL,
    comments       ${TEXT} NOT NULL -- JSON
);
CREATE UNIQUE INDEX alerts_open    ON alerts (subject) WHERE status IN ('New', 'InProgress');
CREATE INDEX        alerts_machine ON alerts (lower(machine_id), seq);
CREATE INDEX        alerts_sha1    ON alerts (sha1, seq);
CREATE INDEX        alerts_sha256  ON alerts (sha256, seq);
CREATE INDEX        alerts_created ON alerts (created, seq);
CREATE INDEX        alerts_updated ON alerts (updated, seq);
CREATE INDEX        alerts_status  ON alerts (status, seq);

-- From when to when a device said that it had an address.
CREATE TABLE device_addresses (
    device ${TEXT} NOT NULL,
    ip     ${TEXT} NOT NULL,
    since  BIGINT  NOT NULL,
    until  BIGINT  NOT NULL,
    PRIMARY KEY (device, ip, since)
);
CREATE INDEX device_addresses_ip ON device_addresses (ip, until);

-- +goose Down

DROP TABLE device_addresses;
DROP TABLE alerts;
DROP TABLE sightings;
DROP TABLE indicator_state;
DROP TABLE indicator_groups;
DROP TABLE indicators;
