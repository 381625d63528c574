-- How many rows a role may have registered, if it is not the default of register().
CREATE TABLE IF NOT EXISTS rowbell.registration_limit (
  role_name name PRIMARY KEY,
  registrations bigint NOT NULL CHECK (registrations >= 0)
)
