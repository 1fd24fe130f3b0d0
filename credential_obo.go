// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vault-plugin-secrets-databricks/internal/client"
)

const credentialOBO = "obo_token"

// oboCredential is a personal access token that the engine, as a workspace admin, makes on behalf of a service principal
// (Databricks REST reference, Token management API; AWS and GCP only). Its nonce is in its comment.
type oboCredential struct{}

var _ credentialType = oboCredential{}

func (oboCredential) needs() needs {
	return needs{principal: required, scopes: true, comment: true, workspace: true}
}

func (oboCredential) fits(conn *connection, _ *roleEntry) error {
	if isAzureHost(conn.config.Host) {
		return badField(keyCredentialType, "Azure Databricks makes no tokens on behalf of service principals; use %s or %s", credentialOAuthToken, credentialOAuthSecret)
	}
	return nil
}

func (oboCredential) mint(ctx context.Context, conn *connection, o order) (*minted, error) {
	created, err := conn.client.CreateOBOToken(ctx, client.CreateOBOTokenRequest{
		ApplicationID: o.role.ApplicationID,
		Comment:       o.marker.comment(o.text),
		Lifetime:      o.lifetime,
		Scopes:        o.scopes,
	})
	if err != nil {
		return nil, explainOBO(ctx, conn, o, err)
	}
	return mintedToken(conn, created), nil
}

func (oboCredential) undo(ctx context.Context, conn *connection, _ reach, in *intent) ([]string, error) {
	return undoTokens(ctx, conn, reachAdmin, in)
}

func (oboCredential) revoke(ctx context.Context, conn *connection, _ reach, l *lease) error {
	return deletePAT(ctx, conn, reachAdmin, l.ID)
}

func (oboCredential) warnings(_ *client.Identity, role *roleEntry) []string {
	return scopeWarnings(role)
}

// explainOBO says which precondition of an on-behalf-of token is missing, and what to do about it.
func explainOBO(ctx context.Context, conn *connection, o order, err error) error {
	text := strings.ToLower(err.Error())
	switch {
	case isKind(err, client.QuotaExceeded):
		count := "how many it has could not be counted"
		if tokens, listErr := conn.client.ListManagedTokens(ctx); listErr == nil {
			tokens = slices.DeleteFunc(tokens, func(t client.TokenInfo) bool { return strconv.FormatInt(t.OwnerID, 10) != o.role.ServicePrincipalID })
			count = "it has " + countTokens(tokens, o.marker.mountID)
		}
		return tokenQuota("service principal "+o.role.ApplicationID, count, err)
	case strings.Contains(text, "not enabled for this workspace"):
		return fmt.Errorf("this workspace makes no tokens on behalf of service principals (Azure never does); use %s or %s: %w", credentialOAuthToken, credentialOAuthSecret, err)
	case strings.Contains(text, "application id of the service principal"):
		return fmt.Errorf("application_id %s is no service principal of this workspace; add it to the workspace, or correct the role: %w", o.role.ApplicationID, err)
	case isKind(err, client.PermissionDenied):
		return fmt.Errorf("to make a token on behalf of a service principal, the engine's identity must be a workspace admin, and the service principal needs CAN_USE on tokens (Settings, Advanced, Personal access tokens): %w", err)
	default:
		return err
	}
}
