-- One row for each AgentSession object that the operator has seen; ended_at is null while it lives.
CREATE TABLE IF NOT EXISTS presence_sessions (
  session_uid VARCHAR(64)   NOT NULL,
  board       VARCHAR(63)   NOT NULL,
  session_id  VARCHAR(128)  NOT NULL,
  kind        VARCHAR(16)   NOT NULL,
  `user`      VARCHAR(64)   NOT NULL,
  host        VARCHAR(128)  NOT NULL,
  agent       VARCHAR(64)   NOT NULL,
  model       VARCHAR(128)  NOT NULL,
  project     VARCHAR(1024) NOT NULL,
  url         VARCHAR(1024) NOT NULL,
  phase       VARCHAR(16)   NOT NULL,
  started_at  DATETIME(3)   NOT NULL,
  expires_at  DATETIME(3)   NULL,
  ended_at    DATETIME(3)   NULL,
  PRIMARY KEY (session_uid),
  INDEX idx_session (session_id),
  INDEX idx_session_open (board, ended_at)
)
/*M!100200 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin */
/*!80017 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin */;
