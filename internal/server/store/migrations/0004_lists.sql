-- An index for each property that lists are filtered by, and for each order that
-- goes with it: a page costs the same however many rows there are. The order is
-- part of the index where many rows may share the value. A test holds the plans.

-- +goose Up

DROP INDEX actions_status;
DROP INDEX actions_machine;
DROP INDEX actions_requestor;
CREATE INDEX actions_status            ON actions (status, created, seq);
CREATE INDEX actions_status_updated    ON actions (status, updated, seq);
CREATE INDEX actions_type              ON actions (lower(type), created, seq);
CREATE INDEX actions_type_updated      ON actions (lower(type), updated, seq);
CREATE INDEX actions_requestor         ON actions (lower(requestor), created, seq);
CREATE INDEX actions_requestor_updated ON actions (lower(requestor), updated, seq);
CREATE INDEX actions_machine           ON actions (lower(machine_id), created, seq);

CREATE INDEX devices_platform ON devices (lower(os_platform), seq);
CREATE INDEX devices_version  ON devices (lower(os_version), seq);
CREATE INDEX devices_ip       ON devices (nullif(internal_ip, ''));
CREATE INDEX devices_value    ON devices (lower((CASE WHEN value = '' THEN 'Normal' ELSE value END)), seq);

CREATE INDEX indicators_text_id     ON indicators (CAST(seq AS TEXT));
CREATE INDEX indicators_type        ON indicators (type, seq);
CREATE INDEX indicators_action      ON indicators (action, seq);
CREATE INDEX indicators_severity    ON indicators (severity, seq);
CREATE INDEX indicators_alert       ON indicators (generate_alert, seq);
CREATE INDEX indicators_title       ON indicators (lower(title), seq);
CREATE INDEX indicators_application ON indicators (lower(nullif(application, '')), seq);
CREATE INDEX indicators_creator_id  ON indicators (lower(created_by), seq);
CREATE INDEX indicators_name        ON indicators (lower(creator), seq);
CREATE INDEX indicators_created     ON indicators (created, seq);
CREATE INDEX indicators_updated     ON indicators (updated, seq);
CREATE INDEX indicators_until       ON indicators (nullif(expires, 0), seq);
CREATE INDEX indicator_groups_name  ON indicator_groups (name, indicator);
CREATE INDEX indicator_groups_group ON indicator_groups (group_id, indicator);

DROP INDEX alerts_machine;
DROP INDEX alerts_status;
CREATE INDEX alerts_machine  ON alerts (lower(machine_id), created, seq);
CREATE INDEX alerts_status   ON alerts (status, created, seq);
CREATE INDEX alerts_severity ON alerts (severity, created, seq);
CREATE INDEX alerts_category ON alerts (lower(category), created, seq);

-- +goose Down

DROP INDEX alerts_category;
DROP INDEX alerts_severity;
DROP INDEX alerts_status;
DROP INDEX alerts_machine;
CREATE INDEX alerts_machine ON alerts (lower(machine_id), seq);
CREATE INDEX alerts_status  ON alerts (status, seq);

DROP INDEX indicator_groups_group;
DROP INDEX indicator_groups_name;
DROP INDEX indicators_until;
DROP INDEX indicators_updated;
DROP INDEX indicators_created;
DROP INDEX indicators_name;
DROP INDEX indicators_creator_id;
DROP INDEX indicators_application;
DROP INDEX indicators_title;
DROP INDEX indicators_alert;
DROP INDEX indicators_severity;
DROP INDEX indicators_action;
DROP INDEX indicators_type;
DROP INDEX indicators_text_id;

DROP INDEX devices_value;
DROP INDEX devices_ip;
DROP INDEX devices_version;
DROP INDEX devices_platform;

DROP INDEX actions_machine;
DROP INDEX actions_requestor_updated;
DROP INDEX actions_requestor;
DROP INDEX actions_type_updated;
DROP INDEX actions_type;
DROP INDEX actions_status_updated;
DROP INDEX actions_status;
CREATE INDEX actions_status    ON actions (status, seq);
CREATE INDEX actions_machine   ON actions (lower(machine_id), seq);
CREATE INDEX actions_requestor ON actions (lower(requestor), seq);
