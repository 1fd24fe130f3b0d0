// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/framework"
)

// secretSpace is what holds secrets by their keys: a scope, or a schema of Unity Catalog.
type secretSpace struct {
	scope           string
	catalog, schema string // else empty
}

// secretSpaceOf returns the space that a request names. Invalid names are a fieldError.
func secretSpaceOf(data *framework.FieldData) (secretSpace, error) {
	if _, uc := data.Schema[keyCatalog]; !uc {
		s := secretSpace{scope: data.Get(keyScope).(string)}
		return s, checkName(keyScope, s.scope)
	}
	s := secretSpace{catalog: data.Get(keyCatalog).(string), schema: data.Get(keySchema).(string)}
	if err := checkUCName(keyCatalog, s.catalog); err != nil {
		return s, err
	}
	return s, checkUCName(keySchema, s.schema)
}

func (s secretSpace) isUC() bool { return s.catalog != "" }

// kind returns what the space is called.
func (s secretSpace) kind() string {
	if s.isUC() {
		return "schema"
	}
	return "scope"
}

// names returns the name of the space for events and the log, as pairs.
func (s secretSpace) names() []string {
	if s.isUC() {
		return []string{keyCatalog, s.catalog, keySchema, s.schema}
	}
	return []string{keyScope, s.scope}
}

// log returns the names with more pairs, in the form that loggers take.
func (s secretSpace) log(more ...any) []any {
	var pairs []any
	for _, name := range s.names() {
		pairs = append(pairs, name)
	}
	return append(pairs, more...)
}

// ref returns the secret of the key.
func (s secretSpace) ref(key string) secretRef {
	if s.isUC() {
		return secretRef{UC: s.catalog + "." + s.schema + "." + key}
	}
	return secretRef{Scope: s.scope, Key: key}
}

// list returns the keys that Databricks lists.
func (s secretSpace) list(ctx context.Context, conn *connection) ([]client.SecretInfo, error) {
	if !s.isUC() {
		listed, err := conn.client.ListSecrets(ctx, s.scope)
		return listed, explainSecrets(err, s.scope, permissionWrite)
	}
	secrets, err := conn.client.ListUCSecrets(ctx, s.catalog, s.schema)
	if err != nil {
		return nil, explainUC(err, s.catalog+"."+s.schema)
	}
	listed := make([]client.SecretInfo, 0, len(secrets))
	for _, secret := range secrets {
		listed = append(listed, client.SecretInfo{Key: secret.Name, Updated: secret.Updated})
	}
	return listed, nil
}

// valid reports whether a key can be sent, by the rule.
func (s secretSpace) valid(key string) bool {
	if s.isUC() {
		return validUCName(key)
	}
	return validKey(key)
}

func (s secretSpace) rule() string {
	if s.isUC() {
		return ucNameRule
	}
	return keyRule
}

// most returns how many secrets the space can hold.
func (s secretSpace) most() int {
	if s.isUC() {
		return client.MaxUCSecretsPerSchema
	}
	return client.MaxSecretsPerScope
}
