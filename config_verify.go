// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"errors"
	"fmt"

	"vault-plugin-secrets-databricks/internal/client"
)

// unverified says what was wrong with a connection that was not stored: the field, where the answer tells which one, and how to store the
// config all the same only where that can help.
func unverified(config *configEntry, err error) error {
	var remote *client.Error
	if !errors.As(err, &remote) {
		return fmt.Errorf("the connection could not be proved, so nothing was stored: %w", err)
	}
	switch remote.Kind {
	case client.Unauthenticated:
		return config.refusedCredential(remote, err)
	case client.Unavailable, client.Timeout, client.Throttled, client.Canceled, client.NetworkDenied:
		return fmt.Errorf("the connection could not be proved, so nothing was stored (verify_connection=false stores it all the same): %w", err)
	default:
		return fmt.Errorf("the connection could not be proved, so nothing was stored: %w", err)
	}
}

// refusedCredential names the field of a credential that was refused.
func (c *configEntry) refusedCredential(remote *client.Error, err error) error {
	field := remote.Field
	if field == keyClientID && c.ClientID == "" {
		field = ""
	}
	switch {
	case remote.Issued:
		place := "workspace"
		if c.account() {
			place = "account"
		}
		return badField(keyHost, "an access token was issued, but the %s at %s refuses it, so nothing was stored; check that host is the right one, and that the identity has been added there: %s", place, c.Host, err)
	case remote.FromEntra() && field == "" && remote.ErrorCode != "invalid_client":
		return badField(keyAuthType, "Entra ID gives no access token, and does not say which field is wrong, so nothing was stored: %s", err)
	case remote.FromEntra():
		field = cmp.Or(field, keyAzureClientSecret)
		return badField(field, "Entra ID does not accept it, so nothing was stored: %s", err)
	case field != "":
		return badField(field, "Databricks does not accept it at %s, so nothing was stored: %s", c.Host, err)
	case c.AuthType == client.AuthOIDC && tokenFile() != "":
		return badField(keyAuthType, "Databricks does not accept the identity token of the file at %s, so nothing was stored: %s", c.Host, err)
	case c.AuthType == client.AuthOAuthM2M:
		return badField(keyClientSecret, "Databricks does not accept it together with %s %q at %s (it does not say which of the two is wrong), so nothing was stored: %s", keyClientID, c.ClientID, c.Host, err)
	default:
		return badField(c.secretField(), "Databricks does not accept it at %s, so nothing was stored: %s", c.Host, err)
	}
}
