-- What happened to each claim. Rows are only ever added. event_id is made from the claim's uid and the kind of event,
-- so deriving an event a second time adds nothing.
CREATE TABLE IF NOT EXISTS presence_events (
  event_id       VARCHAR(96)  NOT NULL,
  claim_uid      VARCHAR(64)  NOT NULL,
  kind           VARCHAR(16)  NOT NULL,
  at             DATETIME(3)  NOT NULL,
  board          VARCHAR(63)  NOT NULL,
  session_id     VARCHAR(128) NOT NULL,
  resource_label VARCHAR(255) NOT NULL,
  purpose        TEXT         NOT NULL,
  `user`         VARCHAR(64)  NOT NULL,
  host           VARCHAR(128) NOT NULL,
  agent          VARCHAR(64)  NOT NULL,
  reason         VARCHAR(64)  NOT NULL,
  expires_at     DATETIME(3)  NULL,
  token          BIGINT       NULL,
  PRIMARY KEY (event_id),
  INDEX idx_event_resource (resource_label, at),
  INDEX idx_event_at (at)
)
/*M!100200 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin */
/*!80017 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin */;
