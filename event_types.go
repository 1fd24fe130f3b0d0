// SPDX-License-Identifier: MPL-2.0

package databricks

// eventType describes a kind of event, for docs/events.md, which is generated from eventTypes. The tests hold every event that is sent
// against it.
type eventType struct {
	kind    string // its type on Vault's event bus has the prefix databricks/
	when    string
	path    string // an example of the path in its metadata, below the mount
	fields  []eventField
	example []string // values of the fields, in their order; "" leaves one out
}

type eventField struct {
	name      string
	text      string
	sometimes bool // it may be absent
}

// Fields that several events have.
var (
	eventRole       = eventField{"role", "name of the role", false}
	eventKind       = eventField{"credential_type", "the credential type", false}
	eventCredential = eventField{"id", "id of the credential at Databricks: the token's id, the OAuth secret's, or the service principal's", false}
	eventExpiry     = eventField{"expiry_time", "when it ends at Databricks, RFC 3339", false}
	eventName       = eventField{"name", "name of the role", false}
	eventReplaced   = eventField{"replaced", "id of the credential before, empty for none or where it isn't known", false}
	eventScope      = eventField{"scope", "the secret scope", false}
	eventKey        = eventField{"key", "the key", false}
	eventUC         = eventField{keyUCSecret, "full name of the secret in Unity Catalog", false}
	eventPrincipal  = eventField{"principal", "who has the permission", false}
	eventPermission = eventField{"permission", "READ, WRITE or MANAGE", false}
	eventWritten    = eventField{"written", "how many secrets were written", false}
	eventDeleted    = eventField{"deleted", "how many were deleted", false}
	eventDryRun     = eventField{"dry_run", "whether it only reports", false}
	eventFailures   = eventField{"failures", "how many attempts failed in a row; where a new credential could not be made", true}
	eventNext       = eventField{"next_attempt", "when it is tried again, RFC 3339; empty where the engine itself doesn't try again. Absent with missed", true}
	eventMissed     = eventField{"missed", "the time of the schedule that was left out because its window had passed, RFC 3339", true}
)

func sometimes(f eventField) eventField {
	f.sometimes = true
	return f
}

// eventTypes are all kinds of events that the engine sends, by the area that they tell of.
var eventTypes = []eventType{
	{"config-write", "The config was written.", "config", []eventField{{"host", "origin of the workspace", false}, {"auth_type", "how the engine authenticates", false}}, []string{"https://dbc-a1b2c3d4-e5f6.cloud.databricks.com", "oauth-m2m"}},
	{"config-delete", "The config was deleted.", "config", nil, nil},
	{"config-drop", "The connection of a deleted config, which was retained for revocations, was dropped.", "config", nil, nil},
	{"root-rotate", "The engine's own credential was replaced.", "config/rotate-root", []eventField{{"auth_type", "how the engine authenticates", false}, eventCredential, eventReplaced, eventExpiry}, []string{"pat", "5684c955…", "033a2607…", "2026-05-30T12:00:00Z"}},
	{"root-rotate-fail", "The engine's own credential could not be replaced, a replaced one not be removed, or a rotation was left out.", "config/rotate-root", []eventField{eventFailures, eventNext, eventMissed}, []string{"2", "2026-03-01T12:10:00Z", ""}},
	{"split-brain", "A token shows that another Vault uses the mount. Rotation, tidy and rollback have stopped.", "status", []eventField{{"token_id", "id of that token", false}, {"creation_time", "when it was created, RFC 3339", false}}, []string{"5684c955…", "2026-03-01T12:00:00Z"}},

	{"role-write", "A role was written.", "roles/etl", []eventField{eventName, eventKind}, []string{"etl", "pat"}},
	{"role-delete", "A role was deleted.", "roles/etl", []eventField{eventName}, []string{"etl"}},
	{"creds-create", "A credential was minted, and its lease returned to Vault.", "creds/etl", []eventField{eventRole, eventKind, eventCredential, eventExpiry}, []string{"etl", "pat", "5684c955…", "2026-03-01T13:01:00Z"}},
	{"creds-revoke", "A credential was revoked. One that ended by itself sends none.", "creds/etl", []eventField{eventRole, eventKind, eventCredential}, []string{"etl", "pat", "5684c955…"}},
	{"creds-rollback", "A credential was removed whose creation was not completed.", "", []eventField{eventKind, eventCredential}, []string{"pat", "5684c955…"}},
	{"lease-rollback", "What a lost lease had left, a secret, a delivered copy or a permission, was undone.", "", []eventField{sometimes(eventScope), sometimes(eventKey), sometimes(eventUC), sometimes(eventPrincipal)}, []string{"etl", "api-key", "", ""}},

	{"static-role-write", "A static role was written.", "static-roles/dash", []eventField{eventName, eventKind}, []string{"dash", "oauth_secret"}},
	{"static-role-delete", "A static role was deleted, with all that it had made.", "static-roles/dash", []eventField{eventName}, []string{"dash"}},
	{"static-rotate", "A static role has a new credential, its first one included.", "rotate-role/dash", []eventField{eventName, eventKind, eventCredential, eventReplaced, eventExpiry}, []string{"dash", "oauth_secret", "f0c1…", "a77b…", "2026-03-02T13:00:00Z"}},
	{"static-rotate-fail", "A static role's credential could not be replaced, work that follows a rotation not be done, or a rotation was left out.", "rotate-role/dash", []eventField{eventName, eventFailures, eventNext, eventMissed}, []string{"dash", "", "", "2026-03-01T03:00:00Z"}},

	{"token-delete", "A token was deleted by its id.", "tokens/5684c955…", []eventField{{"token_id", "its id", false}}, []string{"5684c955…"}},

	{"scope-write", "A secret scope was created.", "scopes/etl", []eventField{eventScope}, []string{"etl"}},
	{"scope-delete", "A secret scope was deleted.", "scopes/etl", []eventField{eventScope}, []string{"etl"}},
	{"secret-write", "A secret was written, leased or not.", "secrets/etl/api-key", []eventField{eventScope, eventKey}, []string{"etl", "api-key"}},
	{"secret-delete", "A secret was deleted.", "secrets/etl/api-key", []eventField{eventScope, eventKey}, []string{"etl", "api-key"}},
	{"secret-revoke", "The lease of a secret ended, and the secret with it.", "secrets/etl/api-key", []eventField{eventScope, eventKey}, []string{"etl", "api-key"}},
	{"secrets-push", "Many secrets were written and deleted in one request, or some of them before it failed.", "secrets/etl", []eventField{eventScope, eventWritten, eventDeleted}, []string{"etl", "12", "1"}},
	{"uc-secret-write", "A secret in Unity Catalog was written, leased or not.", "uc-secrets/main/app/key", []eventField{eventUC}, []string{"main.app.key"}},
	{"uc-secret-delete", "A secret in Unity Catalog was deleted.", "uc-secrets/main/app/key", []eventField{eventUC}, []string{"main.app.key"}},
	{"uc-secret-revoke", "The lease of a secret in Unity Catalog ended, and the secret with it.", "uc-secrets/main/app/key", []eventField{eventUC}, []string{"main.app.key"}},
	{"uc-secrets-push", "Many secrets of a schema were written and deleted in one request, or some of them before it failed.", "uc-secrets/main/app", []eventField{{"catalog", "the catalog", false}, {"schema", "the schema", false}, eventWritten, eventDeleted}, []string{"main", "app", "12", "1"}},
	{"acl-write", "A permission on a scope was set, leased or not.", "acls/etl/engineers", []eventField{eventScope, eventPrincipal, eventPermission}, []string{"etl", "engineers", "READ"}},
	{"acl-delete", "A permission was deleted.", "acls/etl/engineers", []eventField{eventScope, eventPrincipal}, []string{"etl", "engineers"}},
	{"acl-revoke", "The lease of a permission ended, and the previous permission was restored.", "acls/etl/engineers", []eventField{eventScope, eventPrincipal}, []string{"etl", "engineers"}},

	{"tidy-start", "A tidy began.", "tidy", []eventField{eventDryRun, {"automatic", "whether the engine began it automatically", false}}, []string{"false", "true"}},
	{"tidy-delete", "A tidy removed something.", "tidy", []eventField{{"kind", "token or service_principal", false}, {"id", "its id at Databricks", false}}, []string{"service_principal", "4711"}},
	{"tidy-finish", "A tidy ended.", "tidy", []eventField{{"state", "finished, failed or cancelled", false}, {"found", "how many things it found that should be removed", false}, {"deleted", "how many of them it has removed", false}, {"failed", "how many it could not remove", false}, eventDryRun}, []string{"finished", "1", "1", "0", "false"}},
}
