"""What Airlock adds to Airflow: its operators, their links and triggers."""
