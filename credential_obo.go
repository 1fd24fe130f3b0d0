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
type oboCredential struct{ described }

var _ credentialType = oboCredential{}

var oboTraits = traits{
	name:      credentialOBO,
	summary:   "a personal access token on behalf of a service principal",
	principal: required, comment: true, workspace: true, static: true,
	answer: tokenAnswer, secret: keyTokenValue,
}

func (oboCredential) fits(conn *connection, _ credentialSpec) error {
	if isAzureHost(conn.config.Host) {
		return badField(keyCredentialType, "Azure Databricks makes no tokens on behalf of service principals; use %s or %s", credentialOAuthToken, credentialOAuthSecret)
	}
	return nil
}

func (oboCredential) mint(ctx context.Context, conn *connection, r mintRequest) (*minted, error) {
	created, err := conn.client.CreateOBOToken(ctx, client.CreateOBOTokenRequest{
		ApplicationID: r.applicationID,
		Comment:       r.mark.Comment(r.text),
		Lifetime:      r.lifetime,
		Scopes:        r.scopes,
	})
	if err != nil {
		return nil, explainOBO(ctx, conn, r, err)
	}
	return mintedToken(created), nil
}

func (oboCredential) undo(ctx context.Context, conn *connection, _ reach, p *pass, lost lostCredential) ([]string, error) {
	return undoTokens(ctx, conn, reachAdmin, p, lost)
}

func (oboCredential) revoke(ctx context.Context, conn *connection, _ reach, ref credentialRef) error {
	return deletePAT(ctx, conn, reachAdmin, ref.id)
}

func (oboCredential) warnings(_ *client.Identity, spec credentialSpec) []string {
	return scopeWarnings(spec)
}

// explainOBO says which precondition of an on-behalf-of token is missing, and what to do about it.
func explainOBO(ctx context.Context, conn *connection, r mintRequest, err error) error {
	text := strings.ToLower(err.Error())
	switch {
	case isKind(err, client.QuotaExceeded):
		count := "how many it has could not be counted"
		if tokens, listErr := conn.client.ListManagedTokens(ctx); listErr == nil {
			tokens = slices.DeleteFunc(tokens, func(t client.TokenInfo) bool { return strconv.FormatInt(t.OwnerID, 10) != r.servicePrincipalID })
			count = "it has " + countTokens(tokens, r.mark.MountID)
		}
		return tokenQuota("service principal "+r.applicationID, count, err)
	case strings.Contains(text, "not enabled for this workspace"):
		return fmt.Errorf("this workspace makes no tokens on behalf of service principals (Azure never does); use %s or %s: %w", credentialOAuthToken, credentialOAuthSecret, err)
	case strings.Contains(text, "application id of the service principal"):
		return fmt.Errorf("application_id %s is no service principal of this workspace; add it to the workspace, or correct the role: %w", r.applicationID, err)
	case isKind(err, client.PermissionDenied):
		return fmt.Errorf("to make a token on behalf of a service principal, the engine's identity must be a workspace admin, and the service principal needs CAN_USE on tokens (Settings, Advanced, Personal access tokens): %w", err)
	default:
		return err
	}
}
