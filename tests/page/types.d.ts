// Types of the native API, by the names that the page uses. `api` is made from /openapi.json.

import type { components } from "api";

type Schemas = components["schemas"];

declare global {
    type Job = Schemas["Job"];
    type JobImage = Schemas["Image"];
    type Model = Schemas["Model"];
    type Capabilities = Schemas["Capabilities"];
    type Forecast = Schemas["ForecastOf"];
    type ImageParameters = Schemas["ParametersOf"];
    type Upload = Schemas["Upload"];
    type JobPage = Schemas["JobPage"];
    /** The request of a job, or what of it a file says. */
    type Recorded = { [Name in keyof Schemas["Resolved"]]?: Schemas["Resolved"][Name] | null };
}
